"""Merging many networks: all in one basis, averaged."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from lmc_fast.charts import bars
from lmc_fast.matching import match_many, mean_state
from lmc_fast.nets import MLP
from lmc_fast.recipe import Recipe
from lmc_fast.studies.nets_and_pairs import State, mlp_spec, scores
from lmc_fast.studies.study import Check, Context, Result, Row, Study
from lmc_fast.training import train

PUBLISHED = {"merge_many": (0.0727, 0.9831)}
PUBLISHED_PARENTS = (0.13195, 0.98625)


def _run(context: Context) -> Result:
    data = context.mnist(*context.choose(quick=(2000, 1000), default=(None, None)))
    width = context.choose(quick=64, default=512)
    count = context.choose(quick=3, default=5)
    epochs = context.choose(quick=3, default=6, full=100)
    net = MLP((784, width, width, width, 10))
    recipe = Recipe(
        "adam", lr=1e-3, epochs=epochs, batch_size=context.choose(quick=100, default=500)
    )
    spec = mlp_spec(net)

    def parent(seed: int) -> State:
        trained = train(net, data, recipe, seed=seed, progress=context.progress)
        return dict(trained.state_dict())

    states = [
        context.part(
            f"many/parent{i}",
            (recipe, str(net), len(data.train_x)),
            partial(parent, 1000 * context.seed + i),
        )
        for i in range(count)
    ]
    parents = scores(net, states, data)
    merged = {"naive mean": mean_state(states)}
    objectives: dict[str, float] = {}
    ascent = {}
    for method in ("reference", "merge_many", "universe"):
        found = match_many(states, method=method, spec=spec, progress=context.progress)
        merged[method] = found.merge(states)
        objectives[method] = found.objective
        ascent[method] = {"history": list(found.history), "converged": found.converged}
    found_scores = dict(zip(merged, scores(net, list(merged.values()), data), strict=True))
    rows = [
        Row("parents, mean test loss", float(parents[:, 1].mean()), PUBLISHED_PARENTS[0]),
        Row("parents, mean test accuracy", float(parents[:, 3].mean()), PUBLISHED_PARENTS[1]),
    ]
    for name, values in found_scores.items():
        loss, accuracy = PUBLISHED.get(name, (None, None))
        rows += [
            Row(f"{name}, test loss", float(values[1]), loss),
            Row(f"{name}, test accuracy", float(values[3]), accuracy),
        ]
    rows += [Row(f"{name}, objective over the pairs", value) for name, value in objectives.items()]
    accuracy = float(found_scores["merge_many"][3])
    checks = [
        Check(
            f"the mean of {count} aligned networks has a test accuracy of at least .975",
            accuracy >= 0.975,
            f"{accuracy:.4f} with merge_many, {float(found_scores['universe'][3]):.4f} with "
            f"universe, {float(found_scores['naive mean'][3]):.4f} unaligned",
        ),
        Check(
            "the joint methods reach a larger objective than one reference",
            min(objectives["merge_many"], objectives["universe"]) >= objectives["reference"],
            ", ".join(f"{name} {value:.5g}" for name, value in objectives.items()),
        ),
    ]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    bars(
        {f"parent {i}": float(value) for i, value in enumerate(parents[:, 3])}
        | {name: float(values[3]) for name, values in found_scores.items()},
        ylabel="test accuracy",
        published={"merge": PUBLISHED["merge_many"][1]},
        ax=figure.add_subplot(),
    )
    return Result(
        rows,
        checks,
        {
            "model": f"MLP 784-{width}-{width}-{width}-10",
            "recipe": f"Adam 1e-3, batch {recipe.batch_size}, {epochs} epochs",
            "networks": count,
            "matching": "weights, biases counted",
            "published parents": "test loss .1108 to .1531, accuracy .9854 to .9871; the middle "
            "of each range stands in the table",
        },
        {
            "parents": parents.tolist(),
            "merged": {name: v.tolist() for name, v in found_scores.items()},
            "objectives": objectives,
            "ascent": ascent,
        },
        figure,
    )


STUDY = Study(
    "many",
    "Merging many models: five networks in one basis, averaged",
    "Ainsworth, Hayase, Srinivasa, Git Re-Basin, arXiv 2209.04836; Crisostomi et al. 2024",
    _run,
    "MNIST",
)
