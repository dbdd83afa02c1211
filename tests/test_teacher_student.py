import pytest
import torch
from lmc_fast.teacher_student import population_gradient, population_loss, relu_kernel

G = torch.Generator().manual_seed(0)
STUDENT = torch.randn(3, 5, 4, generator=G, dtype=torch.float64)
TEACHER = torch.eye(4, dtype=torch.float64)


def test_kernel_and_loss_agree_with_sampling():
    x = torch.nn.functional.normalize(torch.randn(400_000, 4, generator=G, dtype=torch.float64))
    a, b = torch.relu(x @ STUDENT[0].T), torch.relu(x @ TEACHER.T)
    sampled = a.T @ b / len(x)
    torch.testing.assert_close(relu_kernel(STUDENT[0], TEACHER), sampled, atol=2e-3, rtol=0)
    loss = (a.sum(1) - b.sum(1)).square().mean()
    torch.testing.assert_close(population_loss(STUDENT[0], TEACHER), loss, rtol=1e-2, atol=0)


def test_gradient_is_the_derivative_of_the_loss():
    gradient = population_gradient(STUDENT, TEACHER)
    step = 1e-6
    for index in [(0, 0, 0), (1, 2, 3), (2, 4, 1)]:
        shift = torch.zeros_like(STUDENT)
        shift[index] = step
        up = population_loss(STUDENT + shift, TEACHER)
        down = population_loss(STUDENT - shift, TEACHER)
        torch.testing.assert_close(
            (up - down)[index[0]] / (2 * step), gradient[index], rtol=1e-5, atol=1e-8
        )


def test_the_teacher_is_a_minimum_and_padding_with_zero_units_changes_nothing():
    assert float(population_loss(TEACHER, TEACHER)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        population_gradient(TEACHER, TEACHER), torch.zeros_like(TEACHER), atol=1e-9, rtol=0
    )
    padded = torch.cat([STUDENT, torch.zeros(3, 2, 4, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(population_loss(padded, TEACHER), population_loss(STUDENT, TEACHER))
    assert torch.isfinite(population_gradient(padded, TEACHER)).all()


def test_loss_does_not_depend_on_the_order_or_a_rotation():
    q = torch.linalg.qr(torch.randn(4, 4, generator=G, dtype=torch.float64))[0]
    torch.testing.assert_close(
        population_loss(STUDENT.flip(1) @ q, TEACHER @ q), population_loss(STUDENT, TEACHER)
    )


def test_dimensions_must_agree():
    with pytest.raises(ValueError, match="one input dimension"):
        relu_kernel(STUDENT, torch.eye(3, dtype=torch.float64))
