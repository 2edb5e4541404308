"""A bound on how long something takes, which loses neither its result nor a cancellation."""

import asyncio


async def within(timeout_s, coroutine):
    """The result of a coroutine; asyncio.TimeoutError if it takes longer.

    It runs in the caller's task.  `asyncio.wait_for` runs it in another, and if the caller is
    cancelled when that is done, loses either its result, an open stream perhaps, or the
    cancellation.  Here one that comes in the very turn in which the time is over looks like that.
    """
    task = asyncio.current_task()
    late = False

    async def give_up():
        nonlocal late
        await asyncio.sleep(timeout_s)
        late = True
        task.cancel()

    timer = asyncio.create_task(give_up())
    try:
        return await coroutine
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError
        raise
    finally:
        timer.cancel()
