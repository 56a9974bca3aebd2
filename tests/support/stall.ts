/** A connection whose commands stand still for a while and then go out, as those of a process that is paused past its lease. */

import { Redis } from "ioredis";
import type { RedisClient } from "../../lib/redis/index.ts";

export interface Stall {
  /** Whatever is sent within the next `ms` is held until then. Reads that are under way still bring what they bring. */
  hold(ms: number): void;
}

/** Of a Cluster this would be a matter of its nodes: a single server only. */
export function createStall(client: RedisClient): Stall {
  if (!(client instanceof Redis)) throw new Error("a single server is wanted");
  const send = client.sendCommand.bind(client);
  let held: Promise<void> | undefined;
  client.sendCommand = (command, ...rest) => {
    if (!held) return send(command, ...rest);
    return held.then(() => send(command, ...rest) as Promise<unknown>);
  };
  return {
    hold(ms) {
      const until = Promise.all([held, Bun.sleep(ms)]).then(() => {
        if (held === until) held = undefined;
      });
      held = until;
    },
  };
}
