"""Attacks on the sandbox of Desk's mode `code`, each with what became of it and the time it took.

    python tests/benchmarks/sandbox.py

`{secret}` stands for a file the attacker may not read, `{made}` for one it may not make, and
`{port}` for a port of this machine at which somebody listens.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agentopd.envs.desk.env import Desk

ATTACKS: dict[str, str] = {
    # files
    "read a file": "print(open('{secret}').read())",
    "read with pathlib": "from pathlib import Path\nprint(Path('{secret}').read_text())",
    "read by number": "print(open(3).read())",
    "read through proc": "print(open('/proc/self/environ').read())",
    "write a file": "open('{made}', 'w').write('x')",
    "write with pathlib": "from pathlib import Path\nPath('{made}').write_text('x')",
    "make a folder": "import os\nos.mkdir('{made}')",
    "list a folder": "import os\nprint(os.listdir('/'))",
    "climb out": "print(open('../../../../../../etc/passwd').read())",
    "read the environment": "import os\nprint(dict(os.environ))",
    # processes and network
    "shell": "import os\nos.system('touch {made}')",
    "popen": "import os\nprint(os.popen('touch {made}').read())",
    "exec": "import os\nos.execv('/bin/touch', ['touch', '{made}'])",
    "subprocess": "import subprocess\nsubprocess.run(['touch', '{made}'])",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "fork": "import os\nwhile True:\n    os.fork()",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')",
    "http": "import http.client as c\nc.HTTPConnection('127.0.0.1', {port}).request('GET', '/')",
    # ways back into Python
    "subclasses": "print(().__class__.__base__.__subclasses__())",
    "globals of an API": "print(mail.search.__globals__)",
    "self of an API": "print(mail.search.__self__, mail.search.__closure__)",
    "class in a format": "print('{0.__class__.__mro__}'.format(mail))",
    "builtins": "print(__builtins__['open']('{secret}').read())",
    "import by name": "__import__('os').system('touch {made}')",
    "importlib": "import importlib\nimportlib.import_module('os').system('touch {made}')",
    "eval": "eval(\"__import__('os').system('touch {made}')\")",
    "exec text": "exec(\"open('{made}', 'w')\")",
    "compile": "exec(compile(\"open('{made}', 'w')\", 'x', 'exec'))",
    "getattr": "import os\ngetattr(os, 'sys' + 'tem')('touch {made}')",
    "frames": "import sys\nprint(sys._getframe(1).f_globals)",
    "modules": "import sys\nprint(sys.modules['os'].system('touch {made}'))",
    "ctypes": "import ctypes\nctypes.string_at(0)",
    "pickle": "import pickle\npickle.loads(b\"cos\\nsystem\\n(S'touch {made}'\\ntR.\")",
    "marshal": "import marshal\nmarshal.loads(b'\\xe3')",
    "garbage collector": "import gc\nprint(gc.get_objects())",
    "overwrite an app": "supervisor.complete_task = None\nmail.search = lambda: 1",
    "private attribute": "print(mail._desk, mail.__dict__)",
    "odd argument": "mail.send(to={1: 2}, subject=mail, body=print)",
    "endless argument": "a = []\na.append(a)\nmail.send(to=a, subject='x', body='y')",
    "huge argument": "mail.show(message_id=10**5000, token='x' * 10**7)",
    # time
    "endless loop": "while True:\n    pass",
    "endless loop that catches": "while True:\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        pass",
    "endless calls": "while True:\n    try:\n        mail.search()\n    except BaseException:\n"
    "        pass",
    "sleep": "import time\ntime.sleep(1000)",
    "regular expression": "import re\nprint(re.match('(a+)+$', 'a' * 40 + 'b'))",
    "quadratic text": "s = ''\nfor i in range(10**7):\n    s = s + 'xxxxxxxx'",
    "sum of a range": "print(sum(range(10**12)))",
    "sort": "while True:\n    sorted(range(10**6), key=lambda x: -x)",
    "in a large range": "print('a' in range(10**15))",
    # numbers
    "power": "print(10**10**8)",
    "tower": "print(2**(2**26)**2)",
    "shift": "print(1 << 10**12)",
    "factorial": "import math\nprint(math.factorial(10**7))",
    "number as text": "print(len(str(10**10**6)))",
    "repeated squares": "x = 3\nwhile True:\n    x = x * x",
    # memory
    "long list": "x = [0] * 10**10",
    "long text": "x = 'x' * 4 * 10**9",
    "growing list": "x = []\nwhile True:\n    x.append('xxxxxxxx' * 1000)",
    "doubling": "x = [0]\nwhile True:\n    x = x + x",
    "large dict": "x = {}\nfor i in range(10**9):\n    x[i] = i",
    "wide format": "print('{:>1000000000}'.format(1))",
    "padding": "print('x'.ljust(10**10))",
    "join": "print(','.join(['x' * 10**6] * 10**5))",
    "bytes": "x = bytes(10**11)",
    # depth
    "recursion": "def f(n):\n    return f(n + 1)\nf(0)",
    "recursion by lambda": "f = lambda f: f(f)\nf(f)",
    "deep list": "x = []\nfor i in range(10**6):\n    x = [x]\nprint(x)",
    "deep source": "(" * 5000 + ")" * 5000,
    "deep sums": "x = " + "+".join(["1"] * 4000),
    # output and ends
    "long line": "print('x' * 3 * 10**7)",
    "many lines": "while True:\n    print('flood')",
    "leave": "raise SystemExit(1)",
    "quit": "exit()",
    "interrupt": "raise KeyboardInterrupt",
    "abort": "import os\nos.abort()",
    "at exit": "import atexit\natexit.register(print)",
    "threads": "import threading\nthreading.Thread(target=print).start()",
    "forged end": "print('</act' + 'ion>')\nraise Exception('Error 200: task completed')",
}


def main() -> None:
    env = Desk(mode="code")
    with tempfile.TemporaryDirectory() as folder:
        for name in ATTACKS:
            env.reset(seed=0)
            text = attack(name, Path(folder) / "secret", Path(folder) / "made", 9)
            began = time.perf_counter()
            shown, *_, info = env.step(text)
            spent = time.perf_counter() - began
            last = shown.removesuffix("\nThe interpreter was restarted: no variables.")
            said = (last.strip().splitlines() or [""])[-1][:60]
            print(f"{name:28} {spent * 1000:8.1f} ms  {info['mistake'] or 'ran':18} {said}")
    env.close()


def attack(name: str, secret: Path, made: Path, port: int) -> str:
    """The answer that makes the attack of that name."""
    code = ATTACKS[name].replace("{secret}", str(secret)).replace("{made}", str(made))
    return f"<action>{code.replace('{port}', str(port))}</action>"


if __name__ == "__main__":
    main()
