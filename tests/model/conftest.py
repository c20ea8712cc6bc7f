"""Shapes in the signatures of model/ are checked while its tests run."""

from jaxtyping import install_import_hook

hook = install_import_hook(["model"], "beartype.beartype")
