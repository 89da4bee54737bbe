"""An image that every runtime can start: a few directories and one program that needs no library.

The program is some hundred bytes of machine code, so that nothing need be fetched or compiled. It
writes a line and ends with 0; given one word, it waits to be killed. It is the image's shell too, for
runtimes that have that start the command.
"""

import json
import os
import struct

SAYS = b"slurm-oci: started\n"
PLACE = "/bin/true"  # of the program in the image
FOLDERS = ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var", "var/tmp")
AT = 0x400000  # the address that the file is loaded to
HEADERS = 64 + 56  # bytes: the ELF header and one program header (elf(5))


def program(machine: str) -> bytes | None:
    """The program for a `machine` as uname(2) names it, or None where there is none for it."""
    if machine not in CODES:
        return None
    number, code = CODES[machine]
    size = HEADERS + len(code) + len(SAYS)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little endian, version 1
        *(2, number, 1, AT + HEADERS, 64, 0, 0),  # an executable; its entry; the program header's place
        *(64, 56, 1, 0, 0, 0),  # the headers' sizes and numbers
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, AT, AT, size, size, 0x1000)  # all of it, to read and execute
    return header + load + code + SAYS


def x86_64() -> bytes:
    """write(1, SAYS), then exit(0), or pause() for ever where argc is 2."""
    size = struct.pack("<I", len(SAYS))
    after = bytes.fromhex(
        "0f05"  # syscall
        "833c2402 7409"  # cmp dword [rsp], 2; je wait
        "b83c000000 31ff 0f05"  # exit(0)
        "b822000000 0f05 ebf7"  # wait: pause(); jmp wait
    )
    to_text = struct.pack("<i", len(size) + 1 + len(after))
    return bytes.fromhex("b801000000 bf01000000 488d35") + to_text + b"\xba" + size + after


def aarch64() -> bytes:
    """The same; ppoll() without descriptors waits, as this machine has no pause()."""
    code = [
        0xD2800020,  # mov x0, 1
        0x10000001,  # adr x1, SAYS: the distance is put in below
        0xD2800002 | len(SAYS) << 5,  # mov x2, len(SAYS)
        0xD2800808,  # mov x8, 64 (write)
        0xD4000001,  # svc 0
        0xF94003E0,  # ldr x0, [sp]
        0xF100081F,  # cmp x0, 2
        0x54000000 | 4 << 5,  # b.eq wait
        0xD2800000,  # mov x0, 0
        0xD2800BA8,  # mov x8, 93 (exit)
        0xD4000001,  # svc 0
        0xD2800000,  # wait: mov x0, 0
        0xD2800001,  # mov x1, 0
        0xD2800002,  # mov x2, 0
        0xD2800003,  # mov x3, 0
        0xD2800928,  # mov x8, 73 (ppoll)
        0xD4000001,  # svc 0
        0x17FFFFFA,  # b wait
    ]
    code[1] |= (len(code) - 1) << 5
    return struct.pack(f"<{len(code)}I", *code)


# By machine: the number in the ELF header (EM_X86_64, EM_AARCH64), and the code.
CODES = {"x86_64": (62, x86_64()), "aarch64": (183, aarch64())}


def make(folder: str, machine: str) -> dict[str, str]:
    """Makes the image in the directory `folder`; its path by image kind. Raises OSError.

    Nothing where there is no program for `machine`.
    """
    content = program(machine)
    if content is None:
        return {}
    root = os.path.join(folder, "bundle", "rootfs")
    for name in FOLDERS:
        os.makedirs(os.path.join(root, name))
    for name in ("", *FOLDERS):
        os.chmod(os.path.join(root, name), 0o755)  # whatever the umask
    for place in (PLACE, "/bin/sh"):
        write(root + place, content, 0o755)
    uid, gid = os.geteuid(), os.getegid()
    write(f"{root}/etc/passwd", f"root:x:0:0::/root:{PLACE}\nuser:x:{uid}:{gid}::/:{PLACE}\n".encode())
    write(f"{root}/etc/group", f"root:x:0:\nuser:x:{gid}:\n".encode())
    process = {"args": [PLACE], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}}
    config = {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"}}
    write(f"{folder}/bundle/config.json", json.dumps(config).encode())
    return {"rootfs": root, "oci-bundle": f"{folder}/bundle"}


def write(path: str, content: bytes, mode: int = 0o644) -> None:
    with open(path, "xb") as file:
        file.write(content)
    os.chmod(path, mode)
