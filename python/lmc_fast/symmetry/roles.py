"""Names for the factors of an attention, from what it does with them."""

from lmc_fast.symmetry.factors import Axis, context_of, leaves


def name_roles(heads: Axis, contracted: Axis, columns: Axis) -> None:
    """Name the factors of a batched product: heads, contracted (qk) and value (v) channels.

    Only channels that exist once per unit of a free batch axis are those of an attention.
    """
    outer = {f for f in leaves(heads) if f.pinned is None}
    for axis, hint in ((contracted, "qk"), (columns, "v")):
        for factor in leaves(axis):
            keys = outer & context_of(factor)
            if factor.pinned is None and keys:
                factor.hint = hint
                for key in outer:
                    key.hint = key.hint or ("queries" if context_of(key) & outer else "heads")
