"""A plugin of mypy: an attribute that nn.Module itself does not declare has any type.

torch declares `Module.__getattr__` as `Tensor | Module`, which is wrong for what networks of other libraries keep there
(numbers, tuples, functions) and would need a cast at every use.
"""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny

MODULE = 'torch.nn.modules.module.Module.'


class ModuleAttributes(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _any if fullname.startswith(MODULE) else None


def _any(context: AttributeContext) -> Type:
    found = context.default_attr_type
    return AnyType(TypeOfAny.special_form) if 'Tensor' in str(found) and 'Module' in str(found) else found


def plugin(version: str) -> type[Plugin]:
    return ModuleAttributes
