"""What a pull request does to the model, as Markdown: decision and deciding figures, metrics, recipe.

    python .github/comment.py origin/main > comment.md      # after `make run`

The workflow posts it. Metrics of the base are known where its dvc.lock is committed and the bytes can be had: from
DVC's remote, or from the cache of an earlier run.
"""

import subprocess
import sys
from pathlib import Path

from flows.graph import DVC
from flows.message import message, read_report
from medtune.params.errors import UserError
from medtune.params.recipe import load_recipe

LONGEST = 60_000  # characters; GitHub refuses a comment of 65,536


def comment(root: Path, base: str, trigger: str = "a pull request") -> str:
    """Markdown, shorter than GitHub's limit. UserError where nothing was registered."""
    try:
        report = read_report(root)
    except (OSError, ValueError):
        raise UserError("reports/register.json is not there or cut off: did `make run` end well?") from None
    subject, body = message(load_recipe(root / "params.yaml"), report, trigger)
    parts = [f"## {subject}", "", "```text", body.replace("```", "'''"), "```"]
    for title, command in (("Metrics", "metrics"), ("Recipe", "params")):
        parts += ["", f"### {title} against {base}", "", _diff(root, command, base)]
    parts += ["", "The release card is in this run's artifacts (release-card)."]
    text = "\n".join(parts)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n\n… cut off: the whole is in the run's artifacts\n"


def _diff(root: Path, command: str, base: str) -> str:
    done = subprocess.run([*DVC, command, "diff", "--md", base], cwd=root, capture_output=True, text=True)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR: ")), "no reason given")
        return f"Not known: {said.removeprefix('ERROR: ')}"
    return done.stdout.strip() or "The same."


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python .github/comment.py BASE")
    try:
        print(comment(Path(), sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
