"""A table's prepared data: where they lie, and whether they were made for the very settings and inputs of now."""

from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.settings import data_settings, own_data_hashes
from sbora_bench.results.folders import CONTAMINATION, data_folder
from sbora_bench.results.records import ContaminationRecord, read_record


def table_data(plan: Plan, results: str | Path, table: str) -> Path:
    """The folder of a table's prepared data.

    Raises UserError, with the command that makes them, where there are none or they were made for something else.
    """
    folder = data_folder(results, table)
    command = plan.command("prepare", "--table", table, "--output", str(folder))
    if not (folder / CONTAMINATION).is_file():
        raise UserError(f"{folder / CONTAMINATION}: no such file; make it with: {command}")
    reason = data_difference(plan, table, read_record(folder / CONTAMINATION, ContaminationRecord))
    if reason:
        raise UserError(f"{folder}: {reason}; make it again with: {command}")
    return folder


def data_difference(plan: Plan, table: str, record: ContaminationRecord) -> str:
    """How what `record` was made of differs from what the table's data would be made of now; empty where it does not.

    A record from before there was a hash of the settings is taken as it is.
    """
    if record.settings_sha256 in ("", hash_of(data_settings(plan, table))):
        return ""
    now = own_data_hashes(plan, table)
    changed = [name for name, digest in now.items() if record.own_data.get(name, digest) != digest]
    if changed:
        return f"data {', '.join(changed)} changed since this was made"
    return changed_settings(plan, table, record) or "made for other data than are here now"


def changed_settings(plan: Plan, table: str, record: ContaminationRecord) -> str:
    """How the settings that `record` was made for differ from those of now; empty where they do not. Reads no data
    file.
    """
    if record.settings_sha256 in ("", hash_of(data_settings(plan, table, record.own_data))):
        return ""
    if (record.experiment, record.table) != (plan.name, table):
        return f"made for table {record.table} of experiment {record.experiment}, not for {table} of {plan.name}"
    return "made for other settings than the experiment and its catalog say now"
