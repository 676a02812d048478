"""What prefect.yaml says, checked before a server hears of it: a deployment that never runs is found by nobody.

for item in read_deployments(Path(".")):
    item.full_name, item.next(now)      # "medtune-retrain/weekly", its next date
"""

import difflib
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import UserError

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.deployments.runner import RunnerDeployment

FILE = Path("prefect.yaml")
KEYS = ("name", "description", "entrypoint", "tags", "parameters", "schedules", "concurrency_limit", "work_pool")
SCHEDULE_KEYS = ("slug", "cron", "interval", "timezone", "active", "parameters")
LIMIT_KEYS = ("limit", "collision_strategy", "grace_period_seconds")
POOL_KEYS = ("name", "work_queue_name", "job_variables")
STRATEGIES = ("CANCEL_NEW", "ENQUEUE")
HORIZON_YEARS = 5  # 29 February comes within four; what does not fire by then never will


@dataclass(frozen=True)
class Deployment:
    """One deployment as prefect.yaml has it; `flow`: the flow's own name, `schedules`: Prefect's, by slug."""

    flow: str
    name: str
    entrypoint: str
    description: str
    pool: str
    queue: str
    tags: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    limit: dict[str, Any] | None = None
    job_variables: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"

    def runner(
        self, known: "DeploymentResponse | None", served: bool, folder: Path | None, more: dict[str, Any] | None = None
    ) -> "RunnerDeployment":
        """For Prefect, by `.apply()`. `known`: as the server has it, whose paused schedules stay paused.

        `served`: for flows.serve, without pool. `folder`: where a process worker runs it, else where it stands.
        `more`: job variables of the pool, over which those of prefect.yaml win.
        """
        from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentScheduleUpdate
        from prefect.client.schemas.objects import ConcurrencyLimitConfig
        from prefect.deployments.runner import RunnerDeployment

        where = dict(more or {})
        if folder:
            # named, the command runs in the worker's own process group: left to itself Prefect starts a session of its
            # own for each run, which a worker that is killed leaves behind
            where = {"working_dir": str(folder), "command": shlex.join([sys.executable, "-m", "prefect.engine"])}
        made = RunnerDeployment.from_entrypoint(
            self.entrypoint,
            name=self.name,
            description=self.description,
            tags=self.tags,
            parameters=self.parameters,
            paused=known.paused if known else None,
            concurrency_limit=ConcurrencyLimitConfig(**self.limit) if self.limit else None,
            job_variables={} if served else where | self.job_variables,
        )
        # Prefect copies the folder of this name into the one that a run starts in, unless they are the same: an
        # absolute path would copy the old checkout, rows and models and all, into one that was moved
        made._path = "."
        # set in any case: what was deployed to a pool before, and is served now, must not be run by a worker too
        made.work_pool_name = None if served else self.pool
        made.work_queue_name = None if served else self.queue
        if known:
            active = {item.slug: item.active for item in known.schedules}
            made.schedules = [
                DeploymentScheduleUpdate(**given | {"slug": slug, "active": active.get(slug, given["active"])})
                for slug, given in self.schedules.items()
            ]
        else:
            made.schedules = [DeploymentScheduleCreate(**given, slug=slug) for slug, given in self.schedules.items()]
        return made


def read_deployments(root: Path) -> list[Deployment]:
    """Every deployment of prefect.yaml. UserError names the deployment, the key and the mend."""
    import yaml

    try:
        said = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{FILE} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{FILE} is no YAML: {' '.join(str(error).split())}") from None
    items = said.get("deployments") if isinstance(said, dict) else None
    if not isinstance(items, list) or not items:
        raise UserError(f"{FILE} has no list `deployments`: there is nothing to deploy")
    found = [_read(root, item, number) for number, item in enumerate(items, 1)]
    names = [item.full_name for item in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{FILE}: two deployments are called {twice[0]}; the second would replace the first")
    return found


def next_firing(schedule: dict[str, Any], now: datetime) -> datetime | None:
    """When a cron line fires next, in its own time zone; None where it does not within HORIZON_YEARS."""
    from zoneinfo import ZoneInfo

    from prefect._vendor.croniter import CroniterBadDateError, croniter  # the one that the server's scheduler asks

    here = now.astimezone(ZoneInfo(schedule.get("timezone") or "UTC"))
    try:
        return croniter(schedule["cron"], here, max_years_between_matches=HORIZON_YEARS).get_next(datetime)
    except CroniterBadDateError:
        return None


def _read(root: Path, item: Any, number: int) -> Deployment:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UserError(f"{FILE}: deployment {number} has no name")
    label = f"{FILE}, deployment {item['name']}"
    _known_keys(label, item, KEYS)
    flow = _flow(root, label, item.get("entrypoint"))
    label = f"{FILE}, deployment {flow.name}/{item['name']}"
    parameters = item.get("parameters") or {}
    _known_keys(f"{label}, parameters of {flow.name}", parameters, tuple(flow.parameters.properties))
    pool = item.get("work_pool") or {}
    _known_keys(f"{label}, work_pool", pool, POOL_KEYS)
    if not pool.get("name"):
        raise UserError(f"{label} has no work_pool.name: no worker would run it")
    return Deployment(
        flow=flow.name,
        name=item["name"],
        entrypoint=item["entrypoint"],
        description=item.get("description") or flow.description or "",
        pool=pool["name"],
        queue=pool.get("work_queue_name") or "default",
        tags=list(item.get("tags") or ()),
        parameters=parameters,
        schedules=_schedules(label, item.get("schedules") or [], tuple(flow.parameters.properties)),
        limit=_limit(label, item.get("concurrency_limit")),
        job_variables=pool.get("job_variables") or {},
    )


def _flow(root: Path, label: str, entrypoint: Any) -> Any:
    from prefect.exceptions import MissingFlowError, ScriptError
    from prefect.flows import load_flow_from_entrypoint

    if not isinstance(entrypoint, str) or ":" not in entrypoint:
        raise UserError(f"{label} needs an entrypoint such as flows/pipeline.py:pipeline, not {entrypoint!r}")
    path, _, name = entrypoint.rpartition(":")
    if not (root / path).is_file():
        raise UserError(f"{label}: its entrypoint's file {path} is not there")
    try:
        return load_flow_from_entrypoint(f"{root / path}:{name}")
    except MissingFlowError:
        raise UserError(f"{label}: {path} has no flow {name}") from None
    except ScriptError as error:
        raise UserError(f"{label}: {path} cannot be imported: {error.user_exc}") from None


def _schedules(label: str, items: Any, parameters: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """slug -> what Prefect's schedule models take. A slug lets a re-deploy know which schedule a person paused."""
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{label}: schedules must be a list of cron or interval entries")
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items, 1):
        where = f"{label}, schedule {item.get('slug', number)}"
        _known_keys(where, item, SCHEDULE_KEYS)
        if ("cron" in item) == ("interval" in item):
            raise UserError(f"{where} needs either a cron line or an interval in seconds")
        if not item.get("slug") or item["slug"] in found:
            raise UserError(f"{where} needs a slug of its own, such as mondays: a schedule is known by it")
        if not isinstance(item.get("active", True), bool):
            raise UserError(f"{where}: active must be true or false, not {item['active']!r}")
        _known_keys(f"{where}, parameters", item.get("parameters") or {}, parameters)
        _check_zone(where, item.get("timezone"))
        if "cron" in item:
            _check_cron(where, item)
            schedule = CronSchedule(cron=item["cron"], timezone=item.get("timezone"))
        else:
            seconds = item["interval"]
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 1:
                raise UserError(f"{where}: interval must be seconds, at least 1, not {seconds!r}")
            schedule = IntervalSchedule(
                interval=timedelta(seconds=seconds),
                timezone=item.get("timezone"),
                anchor_date=datetime(2020, 1, 1, tzinfo=UTC),  # a re-deploy must not move its ticks
            )
        found[item["slug"]] = {
            "schedule": schedule,
            "active": item.get("active", True),
            "parameters": item.get("parameters") or {},
        }
    return found


def _check_cron(where: str, item: dict[str, Any]) -> None:
    from prefect._vendor.croniter import croniter
    from prefect._vendor.croniter.croniter import CroniterError

    line = item["cron"]
    five = 'minute hour day-of-month month day-of-week, such as "0 3 * * 1"'
    if not isinstance(line, str) or not (line.startswith("@") or len(line.split()) == 5):
        raise UserError(f"{where}: {line!r} is no cron line; it has five fields, {five}")
    try:
        croniter.expand(line)
    except CroniterError as error:
        raise UserError(f"{where}: the cron line {line!r} cannot be read ({error}); write {five}") from None
    if next_firing(item, datetime.now(UTC)) is None:
        raise UserError(
            f"{where}: the cron line {line!r} does not fire once within {HORIZON_YEARS} years: "
            "no month has that day; mend day and month"
        )


def _check_zone(where: str, zone: Any) -> None:
    from zoneinfo import ZoneInfo, available_timezones

    if zone is None:
        return
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, TypeError, OSError):
        near = difflib.get_close_matches(str(zone), available_timezones(), 1)
        raise UserError(f"{where}: there is no time zone {zone!r}" + (f"; {near[0]}?" if near else "")) from None


def _limit(label: str, given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    given = {"limit": given} if isinstance(given, int) else given
    if not isinstance(given, dict):
        raise UserError(f"{label}: concurrency_limit must be a number or limit and collision_strategy")
    _known_keys(f"{label}, concurrency_limit", given, LIMIT_KEYS)
    if not isinstance(given.get("limit"), int) or given["limit"] < 1:
        raise UserError(f"{label}: concurrency_limit.limit must be 1 or more, not {given.get('limit')!r}")
    if given.get("collision_strategy", "ENQUEUE") not in STRATEGIES:
        raise UserError(f"{label}: concurrency_limit.collision_strategy must be one of {', '.join(STRATEGIES)}")
    return given


def _known_keys(where: str, given: Any, known: tuple[str, ...]) -> None:
    """Prefect passes over a key that it does not know: a `schedule:` for `schedules:` would never fire."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: {given!r} is not a set of keys and values")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise UserError(f"{where}: there is no {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
