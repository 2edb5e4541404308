// The sealed build: no console on any interface, no Python but frozen Python at start-up.
// Each option: OPTIONS.md.

#define MICROPY_HW_BOARD_NAME "Signet sealed"

#define MICROPY_HW_ENABLE_UART_REPL (0)
#define MICROPY_HW_ENABLE_USBDEV (0)
#define MICROPY_HW_USB_CDC (0)
#define MICROPY_HW_ESP_USB_SERIAL_JTAG (0)

#define MICROPY_PY_BLUETOOTH (0)
#define MICROPY_PY_ESPNOW (0)

// The second mounts a partition labelled `romfs`, which nobody verified, and puts it on `sys.path`
// before any Python of ours runs: it stays off even in a build that wants `vfs.VfsRom`.
#define MICROPY_VFS_ROM (0)
#define MICROPY_VFS_ROM_IOCTL (0)

// What the interpreter is asked to run, other than by an import, is frozen or is not run: the two
// start-up scripts are, a file on `vfs`, a line from a console or from os.dupterm is not.
void signet_refuse(void);
#define MICROPY_BOARD_BEFORE_PYTHON_EXEC(input_kind, exec_flags) \
    do { \
        if (!((exec_flags) & EXEC_FLAG_SOURCE_IS_RAW_CODE)) { \
            signet_refuse(); \
        } \
    } while (0)
