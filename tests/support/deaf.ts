/** Connections that do not hear Redis' answer: the script is done, and its caller is told that the connection was closed. */

import type { RedisClient, RedisConnections } from "../../lib/redis/index.ts";

/** The first `times` calls of a script have no answer. */
export function deafFor(redis: RedisConnections, script: string, times: number): RedisConnections {
  let left = times;
  const commands = new Proxy(redis.commands, {
    get(target, name) {
      const value = Reflect.get(target, name, target) as unknown;
      if (typeof value !== "function") return value;
      const call = (value as (...args: unknown[]) => Promise<unknown>).bind(target);
      if (name !== script) return call;
      return async (...args: unknown[]) => {
        const answer = await call(...args);
        if (left === 0) return answer;
        left -= 1;
        throw new Error("Connection is closed.");
      };
    },
  }) as RedisClient;
  return { ...redis, commands };
}
