# The compiled modules carry no types: to a type checker, all that they hold is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
