# The sealed build for MicroPython's ports/esp32, 1.26 or later: `make firmware CHIP=esp32 FLASH_MB=4`.
# The sdkconfig parts are put one behind the other without substitution, and the partition table
# needs a literal path: so the last part is written here, where the path is known.
if(NOT SIGNET_CHIP OR NOT SIGNET_FLASH)
    message(FATAL_ERROR "SIGNET_CHIP and SIGNET_FLASH are needed: use `make firmware`")
endif()

set(IDF_TARGET ${SIGNET_CHIP})
set(MICROPY_FROZEN_MANIFEST ${MICROPY_BOARD_DIR}/manifest.py)
set(MICROPY_SOURCE_BOARD ${MICROPY_BOARD_DIR}/board.c)

list(APPEND MICROPY_DEF_BOARD MICROPY_HW_MCU_NAME="${SIGNET_CHIP}")

set(SIGNET_PART ${CMAKE_BINARY_DIR}/sdkconfig.signet)
file(WRITE ${SIGNET_PART} "
CONFIG_PARTITION_TABLE_CUSTOM=y
CONFIG_PARTITION_TABLE_CUSTOM_FILENAME=\"${MICROPY_BOARD_DIR}/partitions-${SIGNET_FLASH}mb.csv\"
CONFIG_ESPTOOLPY_FLASHSIZE_4MB=n
CONFIG_ESPTOOLPY_FLASHSIZE_${SIGNET_FLASH}MB=y
")

set(SDKCONFIG_DEFAULTS
    boards/sdkconfig.base
    ${MICROPY_BOARD_DIR}/sdkconfig.sealed
    ${MICROPY_BOARD_DIR}/sdkconfig.${SIGNET_CHIP}
    ${SIGNET_PART}
)
