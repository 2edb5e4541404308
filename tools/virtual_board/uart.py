"""The UART: a byte from the host raises a signal, whose handler is uart_irq_handler of uart.c.

The interrupt character, while it is armed, sets the pending exception, as the port's
mp_sched_keyboard_interrupt does; every other byte goes to stdin's ring buffer, or is lost if that
is full. So KeyboardInterrupt comes at the next check between bytecodes, and ends waits in C. The
unix port's own handler of SIGINT would jump out of whatever C code it interrupts, of littlefs or
the allocator too: it never runs, and only its presence tells what `micropython.kbd_intr` was told.

What is C on the chip and Python here is put between `hold` and `release`: no exception comes up in
it. Neither these two nor the handler may branch while one is pending, for then it would.

Names take heap, which the chip's own would not: so libc's functions have names that the interpreter
has anyway, those called once are asked for in bytes, and all of them take words (`P`).
"""

import sys
from array import array

import ffi
import uctypes
from micropython import const, kbd_intr

_SIGINT = const(2)
_SIGIO = const(29)
_SIG_BLOCK = const(0)
_SIG_UNBLOCK = const(1)
_O_NONBLOCK = const(0x800)
_O_ASYNC = const(0x2000)
_O_NOCTTY = const(0x100)
_F_SETFL = const(4)
_F_SETOWN = const(8)
_FIONREAD = const(0x541B)
_TCIFLUSH = const(0)
_CLOCK_MONOTONIC = const(1)
_CTRL_C = const(3)
_BUFFER_LEN = const(259)  # mphalport.c: a ring of 260, of which one stays empty
_STATE_WORDS = const(128)
_PENDING_WORD = const(4)  # behind dict_locals, dict_globals, nlr_top, nlr_jump_callback_top

_libc = ffi.open(None)
read = _libc.func("i", "read", "iPP")
write = _libc.func("i", "write", "iPP")
ioctl = _libc.func("i", "ioctl", "iPP")
sigaction = _libc.func("i", "sigaction", "iPP")
sigprocmask = _libc.func("i", "sigprocmask", "iPP")
timer_settime = _libc.func("i", "timer_settime", "PiPP")
_byte = bytearray(1)
_count = array("i", (0,))
_action = array("l", bytes(152))  # struct sigaction: handler, then mask and flags
_mask = array("l", bytes(128))  # sigset_t
_exception = KeyboardInterrupt()
_held = 0
_timer = array("l", (0, 0, 0, 50_000_000, 0))  # struct itimerspec: once, in ns; then the timer's id
_line = _stdin = 0  # file descriptors: of the pty, and of the pipe that is the ring buffer
# Loading a whole word may allocate; half of an address tells whether there is one.
_word = {"whole": uctypes.UINT64, "half": uctypes.UINT32}
_traceback = uctypes.struct(id(_exception) + 16, _word)  # mp_obj_exception_t


def _handler(_):
    held = _pending.half
    _pending.whole = 0
    error = _errno.half
    sigaction(_SIGINT, None, _action)
    while read(_line, _byte, 1) == 1:
        if _byte[0] == _CTRL_C and _action[0]:
            held = True
            _traceback.whole = 0
        else:
            ioctl(0, _FIONREAD, _count)
            if _count[0] < _BUFFER_LEN:
                write(_stdin, _byte, 1)
    if held:  # a system call that began since does not end for it: waits look again on the chip
        timer_settime(_timer[4], 0, _timer, None)
    _errno.half = error
    if held:
        _pending.whole = id(_exception)


def hold():
    """Let nothing interrupt, until `release`."""
    global _held
    sigprocmask(_SIG_BLOCK, _mask, None)
    _held = _pending.half
    _pending.whole = 0


def release():
    if _held:
        _pending.whole = id(_exception)
    sigprocmask(_SIG_UNBLOCK, _mask, None)


def forget():
    """mp_handle_pending(false): drop the exception that waits."""
    _pending.whole = 0


def start():
    """Listen, with Ctrl-C off as in _boot.py. What came before, while the chip started, is lost."""
    global _line, _stdin
    kbd_intr(-1)
    call = _libc.func
    call("i", b"tcflush", "iP")(0, _TCIFLUSH)
    flags = _O_NOCTTY | _O_NONBLOCK
    _line = call("i", b"open", "PiPP")("/proc/self/fd/0", flags, None, None)
    pipe = array("i", (0, 0))
    call("i", b"pipe", "P")(pipe)
    call("i", b"dup2", "iP")(pipe[0], 0)
    _stdin = pipe[1]
    _mask[0] = 1 << _SIGIO - 1
    _action[0] = _handler.cfun()
    sigaction(_SIGIO, _action, None)
    event = array("i", [0, 0, _SIGIO] + [0] * 13)  # struct sigevent: raise the signal
    call("i", b"timer_create", "iPP")(_CLOCK_MONOTONIC, event, uctypes.addressof(_timer) + 32)
    fcntl = call("i", b"fcntl", "iPP")
    fcntl(_line, _F_SETOWN, call("i", b"getpid", "")())
    fcntl(_line, _F_SETFL, flags | _O_ASYNC)


def _find():
    """Address of mp_pending_exception in the VM's state (py/mpstate.h).

    While this module is imported, the state holds its dictionary twice, as locals and as globals.
    The dictionary sys.modules is a part of the state, not far behind them.
    """
    here = id(globals())
    start = id(sys.modules) - 8 * _STATE_WORDS
    words = uctypes.struct(start, {"all": (uctypes.ARRAY | 0, uctypes.UINT64 | _STATE_WORDS)}).all
    for n in range(_STATE_WORDS - _PENDING_WORD):
        if words[n] == here and words[n + 1] == here:
            return start + 8 * (n + _PENDING_WORD)
    raise RuntimeError("virtual board: an interpreter of another make")


_pending = uctypes.struct(_find(), _word)
_errno = uctypes.struct(_libc.func("P", "__errno_location", "")(), _word)
_handler = ffi.callback("v", _handler, "i", lock=True)
del _find, const
