"""medtune: fine-tune a Korean medical LLM as a pipeline. Package files import nothing, so that closures stay small."""
