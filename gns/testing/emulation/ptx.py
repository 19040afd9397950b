"""NVRTC's PTX as a C++ program: an instruction becomes a statement, a thread a fiber of `shim.h`.

`ptx.h` holds what each instruction does, as functions of the names used here. What has no translation raises
`Untranslatable`, so that a new instruction is not passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# What a register of this type is to the C++ compiler; ptx.h has a C++ type of the name of each that computes.
_STORAGE = {"pred": "pred", "b8": "u8", "b16": "u16", "b32": "u32", "b64": "u64", "f32": "f32", "f64": "f64"}
_STORAGE |= {f"{sign}{bits}": f"u{bits}" for sign in "us" for bits in (8, 16, 32, 64)}
_WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
_SPECIAL = {"%tid": "threadIdx", "%ctaid": "blockIdx", "%ntid": "blockDim", "%nctaid": "gridDim"}
_GAP = 128  # bytes between two shared variables, so that running out of one is not running into the next

# Instructions whose result and operands are all of the type that they end in.
_PLAIN = {"add", "sub", "div", "rem", "min", "max", "neg", "abs", "fma", "sqrt", "rcp", "ex2", "lg2", "rsqrt"}
_PLAIN |= {"and", "or", "xor", "not", "mov"}
# Rounding to the nearest is what C++ does; where the others matter, the name of the C++ function has them.
_MODIFIERS = {"rn", "approx", "ftz", "wide", "hi", "lo", "rni", "rzi", "rmi", "rpi", "to", "shiftamt", "warp", "sync"}
_MODIFIERS |= {"red", "and", "all", "any", "ballot", "bfly", "idx", "up", "param", "global", "shared", "const", "nc"}
_MODIFIERS |= {
    "v2",
    "v4",
    *_STORAGE,
    *["lt", "le", "gt", "ge", "eq", "ne", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"],
}
_NARROW = {"popc", "clz", "brev"}  # bits in, a number out


class Untranslatable(Exception):
    """An instruction or directive that `ptx.py` does not know."""


@dataclass
class _Kernel:
    name: str
    parameters: dict[str, int]  # their numbers, by name
    shared: dict[str, int] = field(default_factory=dict)  # addresses
    spans: list[tuple[int, int]] = field(default_factory=list)  # of shared memory that variables take
    lines: list[str] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])  # types of registers


def translate(text: str) -> str:
    """A C++ program with all kernels of a PTX module; to be compiled beside `ptx.h` and `shim.h`."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text.replace("\0", ""), flags=re.DOTALL)
    constants = dict(_constants(text))
    kernels = [_translated(*found, constants) for found in _entries(text)]
    program = ['#include "ptx.h"', *(line for line, _ in constants.values())]
    for kernel in kernels:
        spans = ", ".join(f"{{{begin}u, {end}u}}" for begin, end in kernel.spans)
        program.append(f"static const std::vector<Span> shared_{kernel.name} = {{{spans}}};")
        program += [f"static void ptx_{kernel.name}() {{", f"  shared_spans = &shared_{kernel.name};"]
        program += [f"  {line}" for line in kernel.lines] + ["}"]
    table = ", ".join(f'{{"{kernel.name}", ptx_{kernel.name}}}' for kernel in kernels)
    return "\n".join([*program, f"PTX_KERNELS({table})", ""])


def _constants(text: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """Variables in constant memory, by name: their definition in C++, and bytes."""
    for align, name, size, values in re.findall(r"\.const\s+\.align (\d+) \.b8 (\S+)\[(\d+)\] = \{(.*?)\};", text):
        yield name, (f"alignas({align}) static const unsigned char {_word(name)}[] = {{{values}}};", int(size))


def _entries(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Name, names of parameters, and body of each kernel."""
    for head in re.finditer(r"\.entry (\w+)\((.*?)\)[^{]*\{", text, re.DOTALL):
        depth, end = 1, head.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        parameters = [re.findall(r"[\w$]+", line)[-1] for line in head[2].split(",") if line.strip()]
        if "[" in head[2]:
            raise Untranslatable(f"{head[1]} takes a struct")
        yield head[1], parameters, text[head.end() : end - 1]


def _translated(name: str, parameters: Sequence[str], body: str, constants: dict[str, tuple[str, int]]) -> _Kernel:
    kernel = _Kernel(name, {parameter: number for number, parameter in enumerate(parameters)})
    writer = _Writer(kernel, constants)
    position = 0
    while match := re.compile(r"\s*(?:([{}])|([\w$]+):(?!:)|([^;]+);)").match(body, position):
        position = match.end()
        brace, label, statement = match.groups()
        if brace == "{":
            kernel.scopes.append({})
        elif brace == "}":
            kernel.scopes.pop()
        if brace:
            kernel.lines.append(brace)
        elif label:
            kernel.lines.append(f"{_word(label)}: ;")
        else:
            writer.statement(" ".join(statement.split()))
    return kernel


def _word(name: str) -> str:
    """A name of PTX as one of C++."""
    return "n_" + re.sub(r"\W", "_", name)


def _split(operands: str) -> list[str]:
    """Operands between commas; a vector in braces is one."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", operands)]


class _Writer:
    """Appends statements to a kernel's lines."""

    def __init__(self, kernel: _Kernel, constants: dict[str, tuple[str, int]]) -> None:
        self._kernel, self._constants = kernel, constants

    def statement(self, text: str) -> None:
        """One directive or instruction, without its semicolon."""
        if text.startswith("."):
            self._directive(text)
            return
        match = re.fullmatch(r"(?:@(!?)(%\w+) )?(\S+)(?: (.*))?", text)
        assert match is not None, text
        negated, predicate, name, operands = match.groups()
        line = self._instruction(name.split("."), _split(operands or ""))
        if line is None:
            raise Untranslatable(f"there is no translation for {name} in {self._kernel.name}: {text}")
        condition = f"if ({negated}{self._value(predicate, 'pred')}) " if predicate else ""
        self._kernel.lines.append(f"{condition}{{ {line}; }}")

    def _directive(self, text: str) -> None:
        kernel = self._kernel
        if match := re.fullmatch(r"\.reg \.(\w+) (.*)", text):
            for name, count in re.findall(r"%(\w+)(?:<(\d+)>)?", match[2]):
                names = [f"r_{name}{number}" for number in range(int(count))] if count else [f"r_{name}"]
                kernel.scopes[-1] |= dict.fromkeys(names, match[1])
                if names:
                    kernel.lines.append(f"{_STORAGE[match[1]]} {', '.join(names)};")
        elif match := re.fullmatch(r"\.shared \.align (\d+) \.b8 (\S+)\[(\d+)\]", text):
            align, size = int(match[1]), int(match[3])
            begin = kernel.spans[-1][1] + _GAP if kernel.spans else 0
            begin = -(-begin // align) * align
            kernel.shared[match[2]] = begin
            kernel.spans.append((begin, begin + size))
        elif not text.startswith(".pragma"):
            raise Untranslatable(f"{kernel.name}: {text}")

    # Operands

    def _register(self, name: str) -> str:
        """A register as C++ calls it; raises Untranslatable for a special one."""
        word = f"r_{name.removeprefix('%')}"
        if not any(word in scope for scope in self._kernel.scopes):
            raise Untranslatable(f"{self._kernel.name}: the register {name}")
        return word

    def _value(self, operand: str, kind: str) -> str:
        """An operand read as `kind`."""
        if match := re.fullmatch(r"(%\w+)\.([xyz])", operand):
            if match[1] not in _SPECIAL:
                raise Untranslatable(f"{self._kernel.name}: the register {operand}")
            return f"{kind}({_SPECIAL[match[1]]}.{match[2]})"
        if operand.startswith("%"):
            return f"get<{kind}>({self._register(operand)})"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"get<{kind}>(u32(0x{match[1]}u))"
        if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return f"get<{kind}>(u64(0x{match[1]}ull))"
        if re.fullmatch(r"-?(\d+|0[xX][0-9a-fA-F]+)", operand):
            return f"{kind}({struct.unpack('<Q', struct.pack('<q', int(operand, 0)))[0]}ull)"
        if operand in self._kernel.shared:
            return f"{kind}({self._kernel.shared[operand]}u)"
        if operand in self._constants:
            return f"{kind}(address_of({_word(operand)}))"
        raise Untranslatable(f"{self._kernel.name}: the operand {operand}")

    def _put(self, target: str, kind: str, expression: str) -> str:
        """`expression`, of type `kind`, into a register; "_" takes what nobody asks for."""
        return f"(void)({expression})" if target == "_" else f"put<{kind}>({self._register(target)}, {expression})"

    def _address(self, operand: str) -> tuple[str, str]:
        """The variable or register that `[base+offset]` names, and the offset."""
        match = re.fullmatch(r"\[([%\w$.]+)(?:\+(-?\d+))?\]", operand)
        if match is None:
            raise Untranslatable(f"{self._kernel.name}: the address {operand}")
        return match[1], match[2] or "0"

    # Instructions; each method returns a C++ statement, or None where it knows none

    def _instruction(self, name: list[str], operands: list[str]) -> str | None:
        if not set(name[1:-1]) <= _MODIFIERS:
            return None
        method = getattr(self, f"_{name[0]}", None)
        if method is not None:
            line: str | None = method(name, operands)
            return line
        kind = name[-1]
        if name[0] in _PLAIN:
            values = ", ".join(self._value(operand, kind) for operand in operands[1:])
            approximate = "_approx" if "approx" in name else ""
            flushed = "_ftz" if "ftz" in name else ""
            return self._put(operands[0], kind, f"{name[0]}_{approximate}{flushed}<{kind}>({values})")
        if name[0] in _NARROW:
            return self._put(operands[0], "u32", f"{name[0]}_<{kind}>({self._value(operands[1], kind)})")
        return None

    def _cvta(self, name: list[str], operands: list[str]) -> str | None:
        """Generic and global addresses are the same here; shared memory has addresses of its own."""
        return self._put(operands[0], "u64", self._value(operands[1], "u64")) if "global" in name else None

    def _mul(self, name: list[str], operands: list[str]) -> str:
        kind = name[-1]
        result = _WIDER[kind] if "wide" in name else kind
        product = next((f"mul_{part}" for part in ("wide", "hi", "lo") if part in name), "mul_")
        value = f"{product}<{kind}>({self._value(operands[1], kind)}, {self._value(operands[2], kind)})"
        if name[0] == "mad":
            value = f"add_<{result}>({value}, {self._value(operands[3], result)})"
        return self._put(operands[0], result, value)

    _mad = _mul

    def _shl(self, name: list[str], operands: list[str]) -> str:
        kind = name[-1]
        value, by = self._value(operands[1], kind), self._value(operands[2], "u32")
        return self._put(operands[0], kind, f"{name[0]}_<{kind}>({value}, {by})")

    _shr = _shl

    def _bfind(self, name: list[str], operands: list[str]) -> str | None:
        if "shiftamt" not in name:
            return None
        return self._put(operands[0], "u32", f"bfind_shiftamt<{name[-1]}>({self._value(operands[1], name[-1])})")

    def _setp(self, name: list[str], operands: list[str]) -> str | None:
        if len(name) != 3 or "|" in operands[0]:
            return None
        _, comparison, kind = name
        values = ", ".join(self._value(operand, kind) for operand in operands[1:])
        return self._put(operands[0], "pred", f"{comparison}_<{kind}>({values})")

    def _selp(self, name: list[str], operands: list[str]) -> str:
        kind = name[-1]
        chosen, other = (self._value(operand, kind) for operand in operands[1:3])
        return self._put(operands[0], kind, f"{self._value(operands[3], 'pred')} ? {chosen} : {other}")

    def _cvt(self, name: list[str], operands: list[str]) -> str | None:
        target, source = name[-2:]
        mode = "_".join(name[1:-2])
        if mode not in ("", "rn", "rni", "rzi", "rmi", "rpi"):
            return None
        value = self._value(operands[1], source)
        return self._put(operands[0], target, f"cvt_{mode}<{target}, {source}>({value})")

    def _ld(self, name: list[str], operands: list[str]) -> str | None:
        kind, targets = name[-1], [part.strip() for part in operands[0].strip("{}").split(",")]
        base, offset = self._address(operands[1])
        if "param" in name:
            return self._put(targets[0], kind, f"parameter<{kind}>({self._kernel.parameters[base]})")
        address = self._memory(name, base, offset, len(targets))
        if address is None:
            return None
        puts = [self._put(target, kind, f"from[{number}]") for number, target in enumerate(targets)]
        return f"auto from = static_cast<const {kind}*>({address}); {'; '.join(puts)}"

    def _st(self, name: list[str], operands: list[str]) -> str | None:
        kind, sources = name[-1], [part.strip() for part in operands[1].strip("{}").split(",")]
        address = self._memory(name, *self._address(operands[0]), len(sources))
        if address is None:
            return None
        puts = [f"to[{number}] = {self._value(source, kind)}" for number, source in enumerate(sources)]
        return f"auto to = static_cast<{kind}*>({address}); {'; '.join(puts)}"

    def _memory(self, name: list[str], base: str, offset: str, count: int) -> str | None:
        """A checked pointer to `count` elements."""
        size = f"{count} * sizeof({name[-1]})"
        if "shared" in name:
            return f"shared_memory(u32({self._value(base, 'u32')} + {offset}), {size})"
        if "global" in name:
            return f"global_memory({self._value(base, 'u64')} + {offset}, {size})"
        if "const" in name:
            return f"constant_memory({self._value(base, 'u64')} + {offset}, {size})"
        return None

    def _bra(self, name: list[str], operands: list[str]) -> str:
        return f"goto {_word(operands[0])}"

    def _ret(self, name: list[str], operands: list[str]) -> str:
        return "return"

    def _bar(self, name: list[str], operands: list[str]) -> str | None:
        if "warp" in name:
            return f"__syncwarp({self._value(operands[0], 'u32')})"
        if name[1:] == ["sync"] and operands == ["0"]:
            return "__syncthreads()"
        if name[1:] == ["red", "and", "pred"] and operands[1] == "0":
            return self._put(operands[0], "pred", f"__syncthreads_and({self._value(operands[2], 'pred')}) != 0")
        return None

    _barrier = _bar

    def _vote(self, name: list[str], operands: list[str]) -> str | None:
        kind = "pred" if name[-1] == "pred" else "u32"
        value, mask = self._value(operands[1], "pred"), self._value(operands[2], "u32")
        return self._put(operands[0], kind, f"{kind}(__{name[2]}_sync({mask}, {value}))")

    def _shfl(self, name: list[str], operands: list[str]) -> str | None:
        """Of whole warps only, which the last but one operand tells."""
        targets = [part.strip() for part in operands[0].split("|")]
        values = [self._value(operand, "u32") for operand in operands[1:]]
        lines = [self._put(targets[0], "u32", f"shuffle_{name[2]}({', '.join(values)})")]
        if len(targets) == 2:
            lines.append(self._put(targets[1], "pred", f"shuffle_{name[2]}_is_inside({values[1]})"))
        return "; ".join(lines)
