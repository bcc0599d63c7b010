"""The jobs themselves: one module each, with one function ``work(settings) -> JobResult``."""
