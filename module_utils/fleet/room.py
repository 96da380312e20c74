# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts have room for: amounts taken, and amounts kept for the loss of any one host. Pure.

Amounts are whole numbers, by the index of their resource. For each host it is known how much it
would take over from each other one if that were lost; as only one is lost at a time, what it keeps
free of a resource is the largest of these.
"""

from __future__ import annotations

from typing import Sequence, Tuple

Need = Tuple[Tuple[int, int], ...]  # resource and amount, for what is needed at all


class Room:
    """The room of hosts, by their index."""

    def __init__(self, amounts: Sequence[Sequence[int]], shared: Sequence[int]) -> None:
        self.whole = [list(one) for one in amounts]
        self.free = [list(one) for one in amounts]
        self.shared = list(shared)  # of resources that all hosts share
        self.guests = [0] * len(self.whole)
        self.kept: list[dict[int, list[int]]] = [{} for _ in self.whole]
        self.most = [[0] * len(shared) for _ in self.whole]

    def lacks(self, need: Need, host: int) -> int:
        """Return the first resource of which a host has too little, -1 if it has room."""
        free, most = self.free[host], self.most[host]
        for resource, amount in need:
            if free[resource] - most[resource] < amount:
                return resource
        return -1

    def lacks_shared(self, need: Need) -> int:
        """Return the first of the shared resources of which there is too little, -1 for none."""
        for resource, amount in need:
            if self.shared[resource] < amount:
                return resource
        return -1

    def take(self, need: Need, shared: Need, host: int, guests: int = 1) -> None:
        """Let guests have what they need of a host, whether it is there or not."""
        free = self.free[host]
        for resource, amount in need:
            free[resource] -= amount
        for resource, amount in shared:
            self.shared[resource] -= amount
        self.guests[host] += guests

    def give_back(self, need: Need, shared: Need, host: int, guests: int = 1) -> None:
        """Take back what guests have of a host."""
        free = self.free[host]
        for resource, amount in need:
            free[resource] += amount
        for resource, amount in shared:
            self.shared[resource] += amount
        self.guests[host] -= guests

    def can_keep(self, need: Need, host: int, lost: int) -> bool:
        """Return whether a host could take guests over as well if another one were lost."""
        free = self.free[host]
        kept = self.kept[host].get(lost)
        if kept is None:
            return all(free[resource] >= amount for resource, amount in need)
        return all(free[resource] - kept[resource] >= amount for resource, amount in need)

    def growth(self, need: Need, host: int, lost: int) -> float:
        """Return by what share of a host less is free when it keeps room for guests too."""
        kept, most, whole = self.kept[host].get(lost), self.most[host], self.whole[host]
        found = 0.0
        for resource, amount in need:
            more = amount + (kept[resource] if kept else 0) - most[resource]
            if more > 0:
                found += more / (whole[resource] or 1)
        return found

    def keep(self, need: Need, host: int, lost: int) -> None:
        """Let a host keep room for guests of another one."""
        kept = self.kept[host].setdefault(lost, [0] * len(self.shared))
        most = self.most[host]
        for resource, amount in need:
            kept[resource] += amount
            most[resource] = max(most[resource], kept[resource])

    def forget(self, need: Need, host: int, lost: int) -> None:
        """Let a host no longer keep room for guests of another one."""
        kept, most = self.kept[host][lost], self.most[host]
        for resource, amount in need:
            kept[resource] -= amount
            most[resource] = max(one[resource] for one in self.kept[host].values())

    def load(self, host: int) -> float:
        """Return the share that is taken of the scarcest resource of a host."""
        pairs = zip(self.free[host], self.whole[host])
        return max([1 - free / whole for free, whole in pairs if whole] or [0.0])
