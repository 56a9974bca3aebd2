/**
 * Below the ranges from which Linux (32 768 up) and macOS (49 152 up) take the ports of outgoing connections: a port of those may
 * be some client's socket by the time a server listens on it, or comes back to it after a kill.
 */
const FIRST = 20_000;
const LAST = 32_000;
const TRIES_MAX = 100;
/** Who asks for two uses the first one after he has the second. */
const given = new Set<number>();

/** A free loopback port. Somebody may take it between this and its use; who uses it starts again. */
export function freePort(): number {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1));
    if (given.has(port)) continue;
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data: () => undefined } }).stop(true);
      given.add(port);
      return port;
    } catch {
      // Taken: another one.
    }
  }
  throw new Error(`no free port among ${TRIES_MAX} of ${FIRST} to ${LAST} on 127.0.0.1`);
}
