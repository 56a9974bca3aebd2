/**
 * A connection that sends every script twice, as a caller does who did not hear the first answer. What comes back is the answer of
 * the repetition, unless told otherwise: it must be as good.
 */

import { Command, Redis } from "ioredis";
import type { RedisClient } from "../../lib/redis/index.ts";

export interface TwiceOptions {
  /**
   * Scripts whose first answer is handed on: they hand something out, and a repetition finds it gone. Who did not hear the first
   * answer gets it again when its lease is over.
   */
  readonly isHandOut?: (script: string) => boolean;
  /** Called after the first execution of a script, and after the second one. Scripts go one at a time then. */
  readonly onExecuted?: (script: string) => Promise<void>;
}

/** Of a Cluster this would be a matter of its nodes: a single server only. */
export function sendTwice(client: RedisClient, { isHandOut = () => false, onExecuted }: TwiceOptions = {}): void {
  if (!(client instanceof Redis)) throw new Error("a single server is wanted");
  const { scriptsSet } = client as unknown as { scriptsSet: Record<string, { sha: string; lua: string }> };
  const send = client.sendCommand.bind(client);
  const nameOf = (source: unknown) =>
    Object.entries(scriptsSet).find(([, { sha, lua }]) => sha === source || lua === source)?.[0];
  let turn: Promise<unknown> = Promise.resolve();
  client.sendCommand = (command, ...rest) => {
    const isScript = command.name === "evalsha" || command.name === "eval";
    const script = isScript ? nameOf(command.args[0]) : undefined;
    if (script === undefined) return send(command, ...rest);
    const { sha } = scriptsSet[script]!;
    const args = command.args.slice(1);
    const both = async () => {
      const first = await (send(command, ...rest) as Promise<unknown>);
      await onExecuted?.(script);
      const again = new Command("evalsha", [sha, ...args], { replyEncoding: "utf8" });
      const second = await (send(again) as Promise<unknown>);
      await onExecuted?.(script);
      return isHandOut(script) ? first : second;
    };
    if (!onExecuted) return both();
    const result = turn.then(both);
    turn = result.catch(() => undefined);
    return result;
  };
}
