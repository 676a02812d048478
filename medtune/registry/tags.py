"""Names of tags and aliases in the MLflow registry, in one place: registrar writes them, champion and status read."""

CHALLENGER, CHAMPION = "challenger", "champion"

VERSION = "medtune.version"  # digest: candidate + merge params; both models of a version carry it
CANDIDATE = "medtune.candidate"
MANIFEST = "medtune.manifest"  # sha256 of the version's manifest.json
CONTENT = "medtune.content"  # digest of adapter and merged files as the pipeline made them
COUNTERPART = "medtune.counterpart"  # <model>/<number> of the other half

STATUS = "validation_status"  # approved | rejected | inconclusive
REASONS = "validation_reasons"  # JSON list of sentences
FINDINGS = "medtune.findings"  # JSON list of registry.gate.Finding
DECIDED_AT = "medtune.decided_at"
AGAINST = "medtune.decided_against"  # version digest of the champion at that time, or "none"
JUDGED = "medtune.judged"  # <the decision's key>/<its row in the ledger>, once all of the above is written
DECISION = "medtune.decision"  # the decision's key; written last, so that it says that nothing is left to do
DRIFT = "medtune.drift"  # a sentence: its new rows against those that the champion of then had learned
OVERRIDE = "medtune.override"  # who promoted it against the gate, and why; never removed

LONGEST = 100_000  # characters that MLflow takes in a tag of a version
LONGEST_PAGE = 5000  # of a description: SQLite takes any, PostgreSQL holds MLflow to its column
CUT = "\n\n… cut here: the release card in the run's artifacts (card/card.html) has all of it."
