import pytest
import torch
from lmc_fast.datasets import load_digits, make_moons
from lmc_fast.nets import MLP, VGG16, digits_resnet, resnet20
from lmc_fast.recipe import OPTIMIZERS, Recipe, initialise, set_rates
from lmc_fast.training import _augmented, evaluate, train, train_population
from torch import nn

MOONS = make_moons(256, seed=0)


def tensors(net: nn.Module) -> list[torch.Tensor]:
    return list(net.state_dict().values())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MLP((64, 16, 16, 10), norm="layernorm"), (1, 8, 8)),
        (MLP((64, 16, 16, 10), norm="batchnorm"), (1, 8, 8)),
        (digits_resnet(8), (1, 8, 8)),
        (resnet20(8), (3, 32, 32)),
        (resnet20(8, norm="layernorm"), (3, 32, 32)),
        (VGG16(4, norm="layernorm"), (3, 32, 32)),
        (VGG16(4, norm="batchnorm"), (3, 32, 32)),
        (VGG16(4), (3, 32, 32)),
    ],
)
def test_networks_give_one_logit_a_class(model: nn.Module, shape):
    assert model(torch.randn(3, *shape)).shape == (3, 10)


def test_resnet20_has_the_published_size():
    layers = [m for m in resnet20().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    main_path = [m for m in layers if getattr(m, "kernel_size", None) != (1, 1)]
    assert len(main_path) == 20
    assert sum(p.numel() for p in resnet20().parameters()) == pytest.approx(272_474, rel=0.02)


def test_binary_head_makes_cross_entropy_the_binary_one():
    net = MLP((2, 8, 1), binary=True)
    x, y = MOONS.train_x, MOONS.train_y
    logits = net(x)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 1], y.float())
    torch.testing.assert_close(nn.functional.cross_entropy(logits, y), expected)


def test_bad_networks_are_refused():
    for make in (
        lambda: MLP((3,)),
        lambda: MLP((2, 4, 1), norm="group"),
        lambda: MLP((2, 4, 2), binary=True),
        lambda: resnet20(8, norm="group"),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()


def test_training_is_decided_by_its_seed_and_leaves_the_model_and_global_seed_alone():
    torch.manual_seed(5)
    model = MLP((2, 8, 1), binary=True)
    before = [t.clone() for t in tensors(model)]
    state = torch.get_rng_state()
    recipe = Recipe(epochs=3, lr=0.01, batch_size=50)
    a = train(model, MOONS, recipe, seed=1)
    b = train(MLP((2, 8, 1), binary=True), MOONS, recipe, seed=1)
    c = train(model, MOONS, recipe, seed=2)
    assert same(a, b)
    assert not same(a, c)
    assert not a.training
    assert all(torch.equal(x, y) for x, y in zip(before, tensors(model), strict=True))
    torch.manual_seed(5)
    MLP((2, 8, 1), binary=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_learns_digits():
    data = load_digits()
    net = train(digits_resnet(8), data, Recipe(epochs=4, lr=0.01, batch_size=64), seed=0)
    assert evaluate(net, data.test_x, data.test_y)[1] < 0.06


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_population_is_its_nets_trained_one_by_one(optimizer: str):
    model = MLP((2, 6, 5, 1), norm="layernorm", binary=True)
    recipe = Recipe(optimizer, lr=0.01, epochs=3, batch_size=60, schedule="onecycle", momentum=0.9)
    population = train_population(model, MOONS, recipe, seeds=[3, 4])
    for seed, state in zip([3, 4], population, strict=True):
        single = train(model, MOONS, recipe, seed=seed).state_dict()
        for name, value in state.items():
            torch.testing.assert_close(value, single[name], rtol=1e-3, atol=1e-4)


def test_population_refuses_buffers_and_no_seeds():
    with pytest.raises(ValueError, match="without buffers"):
        train_population(digits_resnet(4), load_digits(), Recipe(epochs=1), seeds=[0])
    with pytest.raises(ValueError, match="at least one"):
        train_population(MLP((2, 1), binary=True), MOONS, Recipe(epochs=1), seeds=[])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "triangle", "steps", "anneal"])
def test_training_resumes_on_the_same_path(schedule: str):
    """Without optimizer state a run cut in two is the run in one piece."""
    model = MLP((2, 8, 1), binary=True)
    recipe = Recipe("sgd", 0.1, 4, 50, schedule, warmup=1, milestones=(3,))
    states = {}
    whole = train(
        model,
        MOONS,
        recipe,
        seed=1,
        on_epoch=lambda e, m: states.update({e: {k: v.clone() for k, v in m.state_dict().items()}}),
    )
    resumed = train(model, MOONS, recipe, seed=1, initial=states[2], first_epoch=2)
    assert same(whole, resumed)
    assert sorted(states) == [0, 1, 2, 3, 4]


def test_stopping_after_some_steps_leaves_the_schedule_that_of_all_epochs():
    recipe = Recipe("sgd", lr=0.1, epochs=4, batch_size=50, schedule="cosine")
    whole: list[float] = []
    part: list[float] = []
    steps: list[int] = []
    epochs: list[int] = []

    def note(step: int, loss: float) -> None:
        steps.append(step)
        part.append(loss)

    net = MLP((2, 8, 1), binary=True)
    train(net, MOONS, recipe, seed=1, on_step=lambda step, loss: whole.append(loss))
    train(
        net,
        MOONS,
        recipe,
        seed=1,
        steps=5,
        on_step=note,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert len(whole) == 12  # 128 examples are three steps an epoch
    assert part == whole[:5]
    assert steps == [1, 2, 3, 4, 5]
    assert epochs == [0, 1]
    with pytest.raises(ValueError, match="expected more than the 3 of 1 epochs, got 3"):
        train(net, MOONS, recipe, seed=1, first_epoch=1, steps=3)


def test_onecycle_follows_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=40)
    recipe = Recipe(lr=0.1, epochs=10, schedule="onecycle")
    ours = torch.optim.Adam([parameter], lr=0.1)
    for step in range(40):
        set_rates(ours, recipe, step, 4)
        assert ours.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        assert ours.param_groups[0]["betas"] == pytest.approx(optimizer.param_groups[0]["betas"])
        optimizer.step()
        if step < 39:
            reference.step()


def test_masked_weights_stay_zero():
    mask = (torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    net = train(
        MLP((2, 8, 1), binary=True),
        MOONS,
        Recipe(epochs=2, lr=0.1),
        seed=0,
        masks={"linears.0.weight": mask},
    )
    weight = net.state_dict()["linears.0.weight"]
    assert torch.equal(weight != 0, mask.bool())


def test_augmentation_keeps_pixels_and_is_decided_by_the_seed():
    images = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16) + 1
    outs = [_augmented(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert outs[0].shape == images.shape
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    for before, after in zip(images, outs[0], strict=True):
        assert set(after.unique().tolist()) <= {0.0, *before.unique().tolist()}


def test_divergence_and_bad_recipes_raise():
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(MLP((2, 8, 8, 8, 1), binary=True), MOONS, Recipe("sgd", 1e12, 5), seed=0)
    for bad in ({"optimizer": "lion"}, {"schedule": "x"}, {"init": "x"}, {"lr": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            Recipe(**bad)
    with pytest.raises(TypeError, match="Embedding"):
        initialise(nn.Embedding(2, 2), torch.Generator())


def test_initialise_follows_the_defaults_in_scale():
    net = MLP((400, 300, 10), norm="layernorm")
    initialise(net, torch.Generator().manual_seed(0))
    assert float(net.linears[0].weight.detach().abs().max()) == pytest.approx(1 / 20, rel=0.01)
    initialise(net, torch.Generator().manual_seed(0), init="kaiming_normal")
    assert float(net.linears[0].weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)


def test_evaluate_restores_the_mode():
    net = digits_resnet(4).train()
    data = load_digits()
    loss, error = evaluate(net, data.test_x, data.test_y, batch_size=100)
    assert net.training
    assert loss > 0
    assert 0 <= error <= 1
    with pytest.raises(ValueError, match="at least one"):
        evaluate(net, data.test_x[:0], data.test_y[:0])
