# ports/esp32/network_wlan.c, network_lan.c and network_common.c, v1.25.0. The packaged stub has
# another port's `LAN`. Of the rest this has what the firmware uses.
from collections.abc import Sequence
from typing import Any, Literal, overload

STA_IF: int
STAT_IDLE: int
ETH_CONNECTED: int

@overload
def hostname() -> str: ...
@overload
def hostname(name: str, /) -> None: ...

class _Interface:
    @overload
    def active(self, /) -> bool: ...
    @overload
    def active(self, is_active: bool, /) -> bool: ...
    def isconnected(self) -> bool: ...
    @overload
    def ifconfig(self, /) -> tuple[str, str, str, str]: ...
    @overload
    def ifconfig(self, addresses: Sequence[str] | Literal["dhcp"], /) -> None: ...
    def config(self, param: str, /) -> Any: ...

class WLAN(_Interface):
    def __init__(self, interface_id: int = ..., /) -> None: ...
    def connect(self, ssid: str = ..., key: str = ..., /, *, bssid: bytes = ...) -> None: ...
    def disconnect(self) -> None: ...
    def status(self, param: str = ..., /) -> int: ...

class LAN(_Interface):
    def __init__(
        self,
        id: int | None = None,
        *,
        mdc: int | None = None,
        mdio: int | None = None,
        reset: int | None = None,
        power: int | None = None,
        phy_addr: int,
        phy_type: int,
        ref_clk_mode: int = -1,
        ref_clk: int | None = None,
    ) -> None: ...
    def status(self) -> int: ...
