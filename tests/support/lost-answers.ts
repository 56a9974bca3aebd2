/** A connection on which answers of a script get lost: it was executed, and the caller hears that the connection broke. */

import { Redis } from "ioredis";
import type { RedisClient } from "../../lib/redis/index.ts";

/** Returns what says how many of the next answers of `script` are lost. Of a single server only. */
export function loseAnswers(client: RedisClient, script: string): (count: number) => void {
  if (!(client instanceof Redis)) throw new Error("a single server is wanted");
  const { scriptsSet } = client as unknown as { scriptsSet: Record<string, { sha: string; lua: string }> };
  const send = client.sendCommand.bind(client);
  let left = 0;
  client.sendCommand = (command, ...rest) => {
    const result = send(command, ...rest) as Promise<unknown>;
    const known = scriptsSet[script];
    const isOfScript = known !== undefined && [known.sha, known.lua].includes(String(command.args[0]));
    if (!isOfScript || left === 0) return result;
    left -= 1;
    return result.then(() => {
      throw new Error("Connection is closed.");
    });
  };
  return (count) => {
    left = count;
  };
}
