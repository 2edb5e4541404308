"""`python -m bench NAME`: what the target of make that has this name runs."""

import click

from bench import board, mqtt, provision, qemu_check, table

BENCHES = {
    "bench": board.measure,
    "bench-mqtt": mqtt.measure,
    "bench-provision": provision.measure,
}


@click.command()
@click.argument("name", type=click.Choice(list(BENCHES)))
def main(name: str) -> None:
    """Measure, and print a table."""
    table.run(name, BENCHES[name])
    if name == "bench":
        qemu_check.show_kept()


if __name__ == "__main__":
    main()
