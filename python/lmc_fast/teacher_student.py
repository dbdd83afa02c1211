r"""Teacher-student ReLU networks whose population loss and gradient have a closed form.

Teacher and student are sums of ReLU units without output weights or biases,
:math:`f_W(x) = \sum_i \max(0, w_i \cdot x)`, and the input is uniform on the unit sphere of
dimension d. With t the angle between two units (Cho and Saul 2009, "Kernel methods for deep
learning", eq. 6, rescaled from the Gaussian to the sphere),

.. math:: E[\mathrm{relu}(a \cdot x)\, \mathrm{relu}(b \cdot x)]
    = \frac{|a||b|}{2 \pi d} (\sin t + (\pi - t) \cos t).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relu_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return E[relu(a_i . x) relu(b_j . x)], x uniform on the sphere.

    Parameters
    ----------
    a, b
        Units of shape (..., p, d) and (..., q, d); leading dimensions broadcast.

    Returns
    -------
    Tensor
        Shape (..., p, q). Complexity O(p q d) each.
    """
    norms, angle, sine, dot = _angles(a, b)
    return (norms * sine + (math.pi - angle) * dot) / (2 * math.pi * a.shape[-1])


def _angles(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"units: expected one input dimension, got {a.shape[-1]}, {b.shape[-1]}")
    norms = a.norm(dim=-1).unsqueeze(-1) * b.norm(dim=-1).unsqueeze(-2)
    dot = a @ b.transpose(-1, -2)
    cosine = (dot / norms.clamp_min(torch.finfo(dot.dtype).tiny)).clamp(-1, 1)
    return norms, torch.acos(cosine), torch.sqrt(1 - cosine * cosine), dot


def population_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return E[(f_student(x) - f_teacher(x))^2].

    Parameters
    ----------
    student
        Units of shape (..., m, d).
    teacher
        Units of shape (M, d).

    Returns
    -------
    Tensor
        Shape (...).
    """
    own = relu_kernel(student, student).sum((-1, -2))
    cross = relu_kernel(student, teacher).sum((-1, -2))
    return own - 2 * cross + relu_kernel(teacher, teacher).sum()


def population_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the gradient of `population_loss` in the student's units, of their shape.

    It is twice the sum over pairs of
    :math:`(|b| \sin t\, \hat a + (\pi - t) b) / (2 \pi d)`, the derivative of the kernel in its
    first unit; a zero unit takes the limit without its direction.
    """

    def kernel_gradient(other: Tensor) -> Tensor:
        _, angle, sine, _ = _angles(student, other)
        along = (sine * other.norm(dim=-1).unsqueeze(-2)).sum(-1, keepdim=True)
        direction = torch.nn.functional.normalize(student, dim=-1)
        total: Tensor = along * direction + torch.matmul(math.pi - angle, other)
        return total

    difference = kernel_gradient(student) - kernel_gradient(teacher)
    gradient: Tensor = difference / (math.pi * student.shape[-1])
    return gradient
