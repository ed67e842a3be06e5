"""`ray start` of one more node on this machine's loopback interface: `python -m fairsweep.cluster.service.loopback`.

Ray (2.60) listens on loopback alone where `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` says that no other machine joins, and
then lets no second node join; without it, it puts the machine's own address in the place of 127.0.0.1.
"""

from __future__ import annotations


def main() -> None:
    """Runs `ray start` with the words of the command line, with 127.0.0.1 as the address of this node."""
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    ray_constants.ENABLE_RAY_CLUSTER = True  # in this process: what it starts reads the variable
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
    scripts.main()


if __name__ == "__main__":
    main()
