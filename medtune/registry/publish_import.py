"""The second half of `medtune publish`: a bundle becomes a version of this environment's registry, once.

The order of writes, each of which may be the last before a kill: files in mlruns/artifacts/versions; the MLflow run;
over HTTP the files in its artifacts; then registry/registrar.py's own order, with the decision that was made where the
version comes from. A run after it writes what is missing. The champion stays: a person promotes (`medtune promote`), or
`--promote` where nothing stands against it (`promote_published`).

Ledger rows here say where they come from, `body["published"]`: the source's name, numbers and row digests, by, reason.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry import tags
from medtune.registry.adopt import adopt
from medtune.registry.ledger import Event, Ledger, open_ledger
from medtune.registry.publish_bundle import Bundle, link_tree, read_bundle, same_version
from medtune.registry.publish_export import recipe_of
from medtune.registry.publish_promote import judged_in, promote_published, stands_against
from medtune.registry.publish_run import bring_run
from medtune.registry.registrar import (
    ADAPTER_NOTE,
    MERGED_NOTE,
    Half,
    Registered,
    Registration,
    decision_of,
    register,
    registry_lock,
)
from medtune.registry.retracted_rows import said_of
from medtune.registry.standing import DECISIONS, Standing, standings
from medtune.registry.verify import verify_version
from medtune.registry.versions import ADAPTER, MERGED, version_path
from medtune.tracking.store import connect, open_store, store_errors

# What the registrar writes by itself, and what belongs to the use of a version where it came from
NOT_TAKEN = {
    tags.VERSION,
    tags.COUNTERPART,
    tags.STATUS,
    tags.REASONS,
    tags.FINDINGS,
    tags.DECIDED_AT,
    tags.AGAINST,
    tags.JUDGED,
    tags.DECISION,
    tags.OVERRIDE,
}
FROM, NUMBER = "medtune.published_from", "medtune.published_number"


def import_bundle(root: Path, name: str, folder: Path, promote: bool = False, client: Any = None) -> Standing:
    """Bring a bundle into the registry of this environment, whose target is called `name`; the standing it has here.

    RegistryError where the bundle is not as it was sent or not signed by a trusted key, where the version may not be
    used here (a row retracted, retired or rejected here, other files under its digest), and where `promote` may not be:
    the version is registered then all the same, and the sentence says what to run.
    """
    recipe = load_recipe(recipe_of(root))
    bundle = read_bundle(folder)
    _check_names(recipe, bundle)
    uri = open_store(root)
    with store_errors(uri):
        client, ledger = client or connect(uri), open_ledger(root)
        names = recipe.register_
        with registry_lock(root):
            ledger.verify()
            with ledger.lock(names.model):
                adopt(client, ledger, names.model, names.adapter_model)
            _refuse(root, ledger, bundle, name)
            before = standings(ledger, names.model).get(bundle.version)
            place = _keep_files(root, bundle)
            # registered after its run was whole
            run_id = before.registered.body["run_id"] if before else bring_run(uri, bundle)
            done = _register(root, client, ledger, recipe, bundle, place, run_id, uri)
            _bring_looks(ledger, bundle)
        standing = standings(ledger, names.model)[bundle.version]
        _tell(bundle, name, standing, before, done)
        if refusal := standing.refusal():  # a row was retracted meanwhile, or its parent learned from one
            raise RegistryError(f"{refusal}: it is registered and cannot be promoted")
        if promote:
            promote_published(root, ledger, recipe, standing)
        elif (why := stands_against(ledger, recipe, standing)) is not None:
            print(why)
    return standing


def _check_names(recipe: Recipe, bundle: Bundle) -> None:
    ours = recipe.register_.model, recipe.register_.adapter_model
    theirs = bundle.publish["model"], bundle.publish["adapter_model"]
    if ours != theirs:
        raise RegistryError(
            f"the bundle is of {theirs[0]} and {theirs[1]}, and register.model here is {ours[0]}: a version keeps its "
            "name, so publish it where the recipe has the same one"
        )


def _refuse(root: Path, ledger: Ledger, bundle: Bundle, name: str) -> None:
    """What speaks against the version, where it came from or here; RegistryError before anything is written."""
    model, digest = bundle.publish["model"], bundle.version
    decided = bundle.events(*DECISIONS)
    if not decided or decided[-1].event != "approved":
        word = f"was judged {decided[-1].event}" if decided else "was never evaluated"
        raise RegistryError(f"version {digest[:12]} {word} in {bundle.publish['from']}: it is not published")
    rows, said = bundle.rows(), said_of(ledger, model)
    retracted = {row: events[0].body["reason"] for row, events in said.items()}
    for file in dict.fromkeys((root / RETRACTED, RETRACTED)):
        retracted |= {row: line.reason for row, line in read_retracted(file).items()}
    if retracted and rows is None:
        raise RegistryError(
            f"version {digest[:12]} keeps no rows.json, and {len(retracted)} rows are retracted in {name}: whether it "
            "learned from one cannot be told, so it is not published; train it anew"
        )
    for side, ids in ((rows or {}).get("splits") or {}).items():
        if found := sorted(retracted.keys() & set(ids)):
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise RegistryError(
                f"row {found[0][:12]}{others} of the {side} split of version {digest[:12]} is retracted in {name} "
                f"({retracted[found[0]]}): it is not published; retract the row where the version was made, and "
                "publish the next one"
            )
    known = standings(ledger, model).get(digest)
    if known is None:
        return
    # registered and not decided on: a kill fell in between, and this run goes on
    if (known.barred or known.decision is not None) and (refusal := known.refusal()) is not None:
        raise RegistryError(f"{name} has this version already, and {refusal}: nothing is changed")
    if known.registered.body.get("manifest") != bundle.publish["manifest"]:
        raise RegistryError(
            f"{name} has {known.name} already, with other files (manifest {known.registered.body['manifest'][:12]}, "
            f"and {bundle.publish['manifest'][:12]} in the bundle): it was trained in both places; use the one there"
        )


def _keep_files(root: Path, bundle: Bundle) -> Path:
    """The version's folder in this registry, byte for byte the bundle's; made beside its place and renamed."""
    place, manifest = version_path(root, bundle.version), bundle.publish["manifest"]
    if not (place.exists() and same_version(place, bundle.version, manifest)):
        making, damaged = (place.parent / f".{bundle.version}.{what}" for what in ("making", "damaged"))
        for stale in (making, damaged):  # of a kill
            shutil.rmtree(stale, ignore_errors=True)
        link_tree(bundle.files, making)
        if place.exists():
            place.replace(damaged)
        making.replace(place)
        shutil.rmtree(damaged, ignore_errors=True)
    verify_version(place, manifest)
    return place


def _register(
    root: Path, client: Any, ledger: Ledger, recipe: Recipe, bundle: Bundle, place: Path, run_id: str, uri: str
) -> Registered:
    names, digest, sent = recipe.register_, bundle.version, bundle.publish
    sources, kept = {ADAPTER: str(place / ADAPTER), MERGED: str(place / MERGED)}, "local"
    if uri.startswith(("http:", "https:")):
        from medtune.registry.remote import upload_version

        sources = upload_version(client, run_id, place, digest)
        kept = sources[MERGED].rpartition("/")[0]
    first, decided = bundle.events("registered")[-1], bundle.events(*DECISIONS)[-1]
    known = standings(ledger, names.model).get(digest)
    origin = (known.registered.body.get("published") if known else None) or _origin(bundle, first, decided)
    record = {key: value for key, value in first.body.items() if key not in ("numbers", "run_id", "adopted")}
    evaluation = {key: decided.body.get(key) for key in ("evaluation", "test")}
    # after the registrar's own fields: against whom it was judged is the source's to say, not today's champion here
    evaluation |= {"against": decided.body.get("against"), "published": origin}
    identity = {k: v for k, v in sent["pages"]["merged"]["tags"].items() if k not in NOT_TAKEN and "figure." not in k}
    identity |= {tags.MANIFEST: sent["manifest"], FROM: str(origin["from"]), NUMBER: str(origin["number"])}
    pages = {half: sent["pages"][half]["description"] for half in ("adapter", "merged")}
    what = Registration(
        version=digest,
        run_id=run_id,
        adapter=Half(names.adapter_model, sources[ADAPTER], ADAPTER_NOTE),
        merged=Half(names.model, sources[MERGED], MERGED_NOTE),
        identity=identity,
        describe=lambda _, adapter: _page(pages["adapter" if adapter else "merged"], bundle, origin, run_id),
        licences={},
        record=record | {"files": kept, "published": origin},
        evaluation=evaluation,
        waivers=[event.body for event in bundle.events("waiver")],
    )
    # manual: whoever is promoted here is promoted by a person, or by promote_published
    return register(root, client, ledger, what, str(decided.body["key"]), lambda _: decision_of(decided), "manual")


def _origin(bundle: Bundle, first: Event, decided: Event) -> dict[str, Any]:
    sent = bundle.publish
    return {
        **{key: sent[key] for key in ("from", "number", "adapter_number", "by", "reason")},
        "run_id": bundle.run["run_id"],
        "registered": {"seq": first.seq, "at": first.at, "digest": first.digest},
        "decided": {"seq": decided.seq, "at": decided.at, "digest": decided.digest},
        "signer": bundle.signer,
        # from dev by way of staging: where it was judged is at the end of the chain
        "before": first.body.get("published"),
    }


def _page(text: str, bundle: Bundle, origin: Mapping[str, Any], run_id: str) -> str:
    """The description as it was, its links to the run of this registry, and where it comes from."""
    first, _, rest = text.replace(str(bundle.run["run_id"]), run_id).partition("\n\n")
    note = (
        f"**Published** from {origin['from']}, where it is version {origin['number']} of {bundle.publish['model']}, by "
        f"{origin['by']}: {origin['reason']}. It was judged in {judged_in(origin)}, against that registry's champion."
    )
    return "\n\n".join(part for part in (first, note, rest) if part)


def _bring_looks(ledger: Ledger, bundle: Bundle) -> None:
    """Looks at the test rows that the version cost: the rows are as worn here as they are there."""
    model = bundle.publish["model"]
    taken = {event.body.get("key") for event in ledger.events(kinds={"looked"})}
    for event in bundle.events("looked"):
        if event.body.get("key") not in taken:
            ledger.append("looked", model, bundle.version, {**event.body, "published": bundle.publish["from"]})


def _tell(bundle: Bundle, name: str, standing: Standing, before: Standing | None, done: Registered) -> None:
    sent, model = bundle.publish, bundle.publish["model"]
    here = f"version {done.merged} of {name} ({sent['adapter_model']} version {done.adapter})"
    there = f"version {sent['number']} of {sent['from']}"
    verb = "is there already" if before is not None else "is published"
    print(f"{model} {standing.version[:12]} {verb}: {there} is {here}")
    for sentence in done.told:
        print(sentence)
    print(f"next: medtune --target {name} lineage {done.merged} | medtune --target {name} status")
