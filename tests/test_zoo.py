import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lmc_fast import barrier, barrier_matrix, checkpoint_grid, match, plane, progress, simplex
from lmc_fast.checkpoints import save_state_dict
from lmc_fast.cli import main
from lmc_fast.nets import MLP
from lmc_fast.report import render_report
from lmc_fast.zoo import Shard, read_zoo

MODEL = ["--model", "lmc_fast.nets:MLP", "--model-args", '{"sizes": [4, 7, 3]}']


@pytest.fixture
def zoo(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [MLP((4, 7, 3)).eval() for _ in range(4)]
    for name, net in zip("abcd", nets, strict=True):
        save_state_dict(net.state_dict(), folder / f"{name}.safetensors")
    data = torch.randn(40, 4), torch.arange(40) % 3
    file = tmp_path / "data.safetensors"
    save_state_dict({"inputs": data[0], "targets": data[1]}, file)
    return folder, nets, data, ["--data", str(file), *MODEL, "--alphas", "3"]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_the_zoo_is_the_barrier_matrix(zoo, tmp_path, capsys, monkeypatch):
    folder, nets, data, options = zoo
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    code, summary, err = run(capsys, "zoo", folder, "--out", tmp_path / "out", *options)
    assert (code, summary["written"], summary["pairs"]) == (0, 6, 6)
    # Done, of how many, and the time that has gone and remains.
    assert re.search(r"6/6 \[\d\d:\d\d<\d\d:\d\d", err)
    found, wanted = read_zoo(tmp_path / "out"), barrier_matrix(nets, data, alphas=3)
    assert found.names == ("a", "b", "c", "d")
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-6)
    np.testing.assert_allclose(found.error, wanted.error, atol=1e-12)


def test_it_resumes_and_shards_merge(zoo, tmp_path, capsys):
    folder, _, _, options = zoo
    out = tmp_path / "out"
    for shard, written in (("1/2", 3), ("1/2", 0), ("2/2", 3)):
        code, summary, _ = run(capsys, "zoo", folder, "--out", out, *options, "--shard", shard)
        assert (code, summary["written"]) == (0, written)
    (out / "b--d.json").unlink()
    assert np.isnan(read_zoo(out).loss[1, 3]).all()
    code, summary, _ = run(capsys, "zoo", folder, "--out", out, *options)
    assert (summary["written"], summary["pairs"]) == (1, 6)
    code, _, err = run(capsys, "zoo", folder, "--out", out, *options, "--alphas", "5")
    assert code == 1
    assert "other settings" in err


def test_aligned_pairs_have_lower_or_equal_distance(zoo, tmp_path, capsys):
    folder, nets, data, options = zoo
    out = tmp_path / "out"
    code, _, err = run(capsys, "zoo", folder, "--out", out, *options, "--align", "weights")
    assert code == 0, err
    aligned = read_zoo(out)
    raw = barrier_matrix(nets, data, alphas=3)
    np.testing.assert_allclose(aligned.loss[..., 0], raw.loss[..., 0], rtol=1e-5)
    assert np.abs(aligned.loss[..., 1] - raw.loss[..., 1]).max() > 0


def test_the_report_is_one_file_that_needs_no_other(zoo, tmp_path, capsys):
    folder, nets, data, options = zoo
    run(capsys, "zoo", folder, "--out", tmp_path / "out", *options)
    curve = barrier(nets[0], nets[1], data, alphas=5, calibrate_temperature=True)
    (tmp_path / "x<y.json").write_text(curve.to_json())
    target = tmp_path / "report.html"
    results = [tmp_path / "x<y.json", tmp_path / "out"]
    code, summary, err = run(capsys, "report", *results, "--out", target)
    assert code == 0, err
    assert summary["results"] == {"BarrierCurve": 1, "BarrierMatrix": 1}
    text = target.read_text()
    assert "x&lt;y" in text
    assert "x<y" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "A barrier is meant as <b>chord</b>" in text
    assert text.count("data:image/png;base64,") == 3
    assert f"{curve.loss_barrier('mean'):.4g}" in text
    assert torch.__version__ in text
    code, _, err = run(capsys, "report", *results, "--out", target)
    assert code == 1
    assert "--force" in err


def test_the_report_reads_everything_the_package_writes(zoo, tmp_path, capsys):
    _, nets, data, _ = zoo
    results = {
        "line": barrier(nets[0], nets[1], data, alphas=3),
        "plane": plane(*nets[:3], data, resolution=3),
        "mix": simplex(nets[:3], data, resolution=3),
        "pairs": barrier_matrix(nets[:3], data, alphas=3),
        "epochs": checkpoint_grid(nets[:2], nets[1:3], data, alphas=3),
    }
    paths = []
    for name, result in results.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(result.to_json())
        back = type(result).from_json(paths[-1].read_text())
        np.testing.assert_array_equal(back.loss, result.loss)
        assert back.to_json() == result.to_json()
    paths.append(tmp_path / "aligned.safetensors")
    match(nets[0], nets[1], example_inputs=data[0][:2]).save(paths[-1])
    stored = Path(__file__).parent.parent / "bench" / "results" / "studies" / "lr-sparsity.json"
    paths.append(tmp_path / stored.name)
    paths[-1].write_text(stored.read_text())
    demo = tmp_path / "demo"
    demo.mkdir()
    curve = json.loads(results["line"].to_json())
    row = {"network": "MLP 2-4-2", "method": "weights", "curves": {"test": curve}}
    (demo / "curves.json").write_text(json.dumps({"settings": {}, "rows": [row]}))
    target = tmp_path / "all.html"
    code, summary, err = run(capsys, "report", *paths, demo, "--out", target)
    assert code == 0, err
    assert summary["results"] == {
        "BarrierCurve": 2, "PlaneGrid": 1, "SimplexGrid": 1, "BarrierMatrix": 1,
        "CheckpointGrid": 1, "Matching": 1, "StudyRecord": 1,
    }  # fmt: skip
    text = target.read_text()
    # Curves by loss and by error, and one picture for every other result but the study's table.
    assert text.count("data:image/png;base64,") == 7
    for words in ("plane through three", "matching by weights", "2 x 2 checkpoints", "holds: "):
        assert words in text
    assert "MLP 2-4-2, weights, test" in text


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_bad_shards_are_refused(text):
    with pytest.raises(ValueError, match="i/N"):
        Shard.parse(text)


def test_bad_input_is_named(zoo, tmp_path, capsys):
    options = zoo[-1]
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "zoo", tmp_path / "empty", "--out", tmp_path / "o", *options)
    assert code == 1
    assert "at least two checkpoints" in err
    (tmp_path / "bad.json").write_text("[]")
    code, _, err = run(capsys, "report", tmp_path / "bad.json", "--out", tmp_path / "r.html")
    assert code == 1
    assert "expected a result" in err
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(ValueError, match="at least one result"):
        render_report({})
