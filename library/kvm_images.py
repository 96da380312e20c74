# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the images on a host that its guests are made from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_images
short_description: Keep the images on a host that its guests are made from
version_added: "0.1.0"
description:
  - Brings images to a host, each once, under a name that a guest's disk can state.
  - An image is verified before it gets its name, and the name leads to the former one until then.
  - Images are kept by their content. Guests that were made from a former one keep standing on it,
    and it goes when nothing does any more.
options:
  images:
    description:
      - The images, each a mapping. The keys are described in C(docs/images.md).
      - V(name) is what guests call it. Names of the catalogue, such as V(debian-12), need no more.
      - One of V(url) (http or https), V(path) (a file of the host) and V(file) (a file of the
        controller) says where it comes from.
      - V(checksum) is V(sha256) or V(sha512), a colon and the digits. V(checksums) is the address
        of a publisher's list instead, V(signature) that of its detached signature by a key of
        V(keyring).
      - V(refresh) asks the publisher whether there is a newer one.
      - V(via) is V(host) (the default) or V(controller), which fetches it once for all hosts then.
      - V(format) is V(qcow2) (the default) or V(raw). What comes in another one is converted.
      - V(state) is V(present) or V(absent).
    type: list
    elements: dict
    default: []
  catalogue:
    description:
      - Short names that are laid over the built-in catalogue, each a mapping. What O(images) state
        themselves comes before it.
      - V(url) is needed, with V(checksum) or V(checksums). V(signature) with V(keyring), and
        V(format), are known too. All mean what they mean in O(images).
      - An entry takes the place of a built-in one of that name as a whole.
    type: dict
    default: {}
  prune:
    description: Forget the names that O(images) does not have.
    type: bool
    default: false
  host:
    description: The name of the host in the actions. The system's own name by default.
    type: str
  root:
    description: A folder that stands in front of every place that the module knows by itself, for
      tests.
    type: path
    default: /
  uri:
    description: The libvirt that is asked what stands on an image before it is removed.
    type: str
    default: qemu:///system
attributes:
  check_mode:
    description: Can run in check mode and return what it would do. It fetches no image then.
    support: full
  diff_mode:
    description: Returns what differs when run with C(--diff).
    support: full
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
author:
  - virtfleet contributors (@virtfleet)
seealso:
  - module: kvm_guests
"""

EXAMPLES = r"""
- name: Have a distribution's own image, and one of ours
  kvm_images:
    images:
      - name: debian-12
      - name: golden
        file: /srv/golden.qcow2

- name: Follow what the publisher has by now
  kvm_images:
    images:
      - name: debian-12
        refresh: true

- name: Have an image by a short name of the site's own
  kvm_images:
    catalogue:
      myos-4:
        url: https://images.example.org/myos-4.qcow2
        checksums: https://images.example.org/SHA256SUMS
    images:
      - name: myos-4
"""

RETURN = r"""
actions:
  description: What was carried out, in check mode what would be. There is a change exactly if there
    are actions.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The number of the action in this plan.
      type: str
      sample: a1
    step:
      description: Actions of one step are independent of each other.
      type: int
    object:
      description: What it is done to.
      type: str
      sample: image/debian-12
    action:
      description: V(create), V(update) or V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: Always null.
      type: str
    when:
      description: Always V(now).
      type: str
    changes:
      description: The values that change, each with its path and its values before and after.
      type: list
      elements: dict
    reason:
      description: Why it is done.
      type: str
    destructive:
      description: Whether data is lost.
      type: bool
pending:
  description: V(in_use) for each image that no name leads to and that something still stands on.
  returned: always
  type: list
  elements: dict
blocked:
  description: Always empty.
  returned: always
  type: list
  elements: dict
images:
  description: The declared images that are there.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    path:
      description: The file.
      type: str
    format:
      description: Its format.
      type: str
    size:
      description: The bytes that a guest sees of it.
      type: int
    checksums:
      description: The digests of what was fetched, by algorithm.
      type: dict
    source:
      description: Where it came from.
      type: str
problems:
  description: What is wrong with the input, by the paths of its keys.
  returned: when the input was refused
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.image.run import converge
from ansible.module_utils.image.users import users_by


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "list", "elements": "dict", "default": []},
            "catalogue": {"type": "dict", "default": {}},
            "prune": {"type": "bool", "default": False},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        outcome = converge(
            options["images"],
            options["host"],
            users_by(options["uri"]),
            root=options["root"],
            prune=options["prune"],
            check_mode=module.check_mode,
            catalogue=options["catalogue"],
        )
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
