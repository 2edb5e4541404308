// What the sealed build does in C: start-up, and the answer to input.

#include "esp_flash.h"
#include "esp_system.h"
#include "nvs_flash.h"

#include "py/mpconfig.h"

// The port erases NVS when it cannot be read, so garbage in it would reset what an application
// counts there. Here it stays as it is: esp32.NVS then raises, and Wi-Fi calibrates anew.
void signet_startup(void) {
    nvs_flash_init();
    // As the port does it: the size of the chip, not that of the image's header.
    esp_flash_get_physical_size(NULL, &esp_flash_default_chip->size);
}

void signet_refuse(void) {
    esp_restart();
}
