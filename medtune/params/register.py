"""register: names in the MLflow registry."""

from pydantic import Field

from medtune.params.section import Section


class Register(Section):
    model: str = Field(default="medgpt-ko", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    experiment: str = Field(default="medtune", pattern=r"^[\w-]{1,64}$")

    @property
    def adapter_model(self) -> str:
        return f"{self.model}-adapter"
