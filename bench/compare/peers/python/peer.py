"""Locks of Python clients, measured by dlock-bench: `peer.py NAME URL`. One JSON object a line, in and out."""

import json
import sys
import threading
import time


def redis_py(url):
    """One client with its pool of connections, as the docs have it; the lock looks again every 0.1 s (its default)."""
    import redis

    client = redis.Redis.from_url(url)

    def acquire(key):
        lock = client.lock(key, timeout=30)
        if not lock.acquire():
            raise RuntimeError("not acquired")
        return lock.release

    return acquire


def python_redis_lock(url):
    """Waits by BLPOP on a signal key."""
    import redis
    import redis_lock

    client = redis.Redis.from_url(url)

    def acquire(key):
        lock = redis_lock.Lock(client, key, expire=30)
        if not lock.acquire():
            raise RuntimeError("not acquired")
        return lock.release

    return acquire


def kazoo(url):
    """One session for all threads."""
    from kazoo.client import KazooClient

    client = KazooClient(hosts=url.split("://")[1].split("/")[0])
    client.start()

    def acquire(key):
        lock = client.Lock("/kazoo-" + key, "peer")
        if not lock.acquire():
            raise RuntimeError("not acquired")
        return lock.release

    return acquire


def take_turns(acquire, ask):
    workload, key = ask["workload"], ask["key"]
    turns, failures = [], []

    def task(who):
        own = key if workload["keys"] == "one" else f"{key}-{who}"
        work = workload["work_us"] / 1e6
        try:
            time.sleep(max(0, ask["from"] - time.monotonic_ns()) / 1e9)
            asked = time.monotonic_ns()
            while asked < ask["until"]:
                release = acquire(own)
                acquired = time.monotonic_ns()
                if work:
                    time.sleep(work)
                released = time.monotonic_ns()
                release()
                done = time.monotonic_ns()
                turns.append((who, asked, acquired, released, done))
                asked = done
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=task, args=(who,), daemon=True) for who in range(workload["tasks"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"error": failures[0]} if failures else {"turns": turns}


def main():
    name, url = sys.argv[1:]
    acquire = {"redis-py": redis_py, "python-redis-lock": python_redis_lock, "kazoo": kazoo}[name](url)
    print("{}", flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        answer = take_turns(acquire, ask) if ask["do"] == "turns" else {"error": f"{name} does not {ask['do']}"}
        print(json.dumps(answer), flush=True)


main()
