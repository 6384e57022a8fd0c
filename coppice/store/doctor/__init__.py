"""Whether a store keeps what the roles rely on, and how quick it is: what `coppice doctor` finds out."""

from coppice.store.doctor.diagnosis import diagnose
from coppice.store.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "diagnose"]
