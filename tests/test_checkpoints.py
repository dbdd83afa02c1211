import os
import pickle

import pytest
import torch
from lmc_fast.checkpoints import load_state_dict, save_state_dict
from torch import nn


class Payload:
    """Runs code when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
def test_round_trip(tmp_path, name):
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    save_state_dict(state, tmp_path / name)
    loaded = load_state_dict(tmp_path / name)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[n], state[n]) for n in state)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dicts_are_found(tmp_path, key):
    torch.save({key: {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "c.pt")
    assert load_state_dict(tmp_path / "c.pt")["w"].tolist() == [1, 1]


def test_no_code_runs(tmp_path):
    target = tmp_path / "owned"
    for name, write in (
        ("a.pt", torch.save),
        ("b.pt", lambda o, p: p.write_bytes(pickle.dumps(o))),
    ):
        write({"w": Payload(str(target))}, tmp_path / name)
        with pytest.raises(ValueError, match=r"save model.state_dict\(\) instead|unreadable"):
            load_state_dict(tmp_path / name)
    assert not target.exists()


def test_a_pickled_module_points_to_the_conversion(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"save model.state_dict\(\) instead"):
        load_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
@pytest.mark.parametrize("content", [b"", b"garbage", "truncated"])
def test_damaged_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    save_state_dict({"w": torch.randn(100)}, path)
    path.write_bytes(path.read_bytes()[:200] if content == "truncated" else content)
    with pytest.raises(ValueError, match=name):
        load_state_dict(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_state_dict(tmp_path / "absent.pt")
    with pytest.raises(IsADirectoryError, match="got the directory"):
        load_state_dict(tmp_path)


def test_other_contents_are_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a state dict"):
        load_state_dict(tmp_path / "list.pt")


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
def test_a_failed_write_leaves_the_old_file(tmp_path, name, monkeypatch):
    path = tmp_path / name
    save_state_dict({"w": torch.ones(3)}, path)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full_disk)
    monkeypatch.setattr("lmc_fast.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_state_dict({"w": torch.zeros(3)}, path)
    assert load_state_dict(path)["w"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == [name]


def test_writing_into_nothing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="existing folder"):
        save_state_dict({"w": torch.ones(1)}, tmp_path / "no" / "c.pt")
