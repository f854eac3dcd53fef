"""What this machine has and lacks: one check is one function; a finding names its remedy.

The rooms: host, engine, network, ssh, gpu, wsl. They see the machine through machine.Host alone.
"""

from bench.host.doctor.finding import Finding, Level, as_data, table
from bench.host.doctor.machine import Host, RealHost
from bench.host.doctor.registry import CHECKS, examine

__all__ = ["CHECKS", "Finding", "Host", "Level", "RealHost", "as_data", "examine", "table"]
