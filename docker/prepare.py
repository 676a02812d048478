"""What the servers of compose.yaml need before they start: roles and databases of PostgreSQL, buckets of the S3 store.

    python docker/prepare.py

Runs before every start and changes only what is not as it should be. A role whose password file was made anew gets the
new password. Each database opens for its own role alone, so that the trainer, which writes to the ledger, reads neither
MLflow's users nor Prefect's blocks.
"""

import os
import sys

DATABASES = {"mlflow": ("mlflow", "mlflow_auth"), "prefect": ("prefect",), "ledger": ("ledger",)}


def prepare_databases() -> None:
    """Roles and databases, as libpq's PGHOST, PGPORT, PGUSER and PGPASSWORD let us in; ROLE_DATABASE_PASSWORD each."""
    import psycopg
    from psycopg.sql import SQL, Identifier, Literal

    with psycopg.connect(dbname="postgres", autocommit=True, connect_timeout=10) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for role, owned in DATABASES.items():
            verb = SQL("ALTER") if role in roles else SQL("CREATE")
            password = Literal(os.environ[f"{role.upper()}_DATABASE_PASSWORD"])
            connection.execute(SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, Identifier(role), password))
            for name in owned:
                if name not in databases:
                    connection.execute(SQL("CREATE DATABASE {} OWNER {}").format(Identifier(name), Identifier(role)))
                    print(f"made database {name}", flush=True)
                connection.execute(SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(Identifier(name)))


def prepare_buckets(names: list[str]) -> None:
    """Buckets of these names in the store of AWS_ENDPOINT_URL_S3."""
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3")
    for name in names:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise  # 403: wrong keys, or somebody else's bucket
            client.create_bucket(Bucket=name)
            print(f"made bucket {name}", flush=True)


def main() -> None:
    try:
        prepare_databases()
        prepare_buckets(os.environ["MEDTUNE_BUCKETS"].split())
    except KeyError as error:
        sys.exit(f"error: {error.args[0]} is not set; compose.yaml sets it for the service prepare")
    except Exception as error:  # whatever the drivers raise: said in a line, and Compose tries again
        said = next(iter(str(error).strip().splitlines()), "")
        sys.exit(f"error: {type(error).__name__}: {said}")
    print("databases and buckets are as they should be")


if __name__ == "__main__":
    main()
