/**
 * A Lua script and its typed call, read as one thing: callers name keys and arguments and get a decoded value; they see
 * neither positions nor reply codes. The Lua file alone fixes the order (`local log = KEYS[2]`, camelCase here is snake_case
 * there), and defineScript refuses to start when the two disagree.
 *
 * A script may take a list of further keys and arguments behind the named ones, for batches: `restKeys`, `restArgs`.
 * Shared fragments are Lua files put before the script. NOSCRIPT (a restart, SCRIPT FLUSH) is healed by ioredis, in
 * pipelines too.
 */

import { assert } from "../assert.ts";
import type { RedisClient } from "./client.ts";

type Arg = string | number | Uint8Array;

export interface ScriptDefinition<K extends string, A extends string, R> {
  /** Unique camelCase name. */
  readonly name: string;
  /** The file's text, or fragments and the file last. */
  readonly lua: string | readonly string[];
  readonly keys: readonly K[];
  readonly args: readonly A[];
  /** The script reads further KEYS or ARGV behind the named ones. */
  readonly hasRest?: boolean;
  readonly decode: (reply: unknown) => R;
}

export type ScriptInput<K extends string, A extends string> = Readonly<Record<K, string> & Record<A, Arg>> & {
  readonly restKeys?: readonly string[];
  readonly restArgs?: readonly Arg[];
};

export type Script<K extends string, A extends string, R> = (
  redis: RedisClient,
  input: ScriptInput<K, A>,
) => Promise<R>;

type Command = (...args: Arg[]) => Promise<unknown>;

/** Every script of the process, filled as its modules load. */
const defined = new Map<string, string>();

/**
 * Makes every script known to a connection, before its first command. Later would be too late for auto-pipelining: ioredis
 * fixes a pipeline's commands when its first command of the tick comes, and a script first used in that tick would not be there.
 */
export function installScripts(redis: RedisClient): void {
  for (const [name, lua] of defined) redis.defineCommand(name, { lua });
}

/** The commands that installScripts adds. */
export function scriptNames(): string[] {
  return [...defined.keys()];
}

const SHEBANG = /^#!lua[^\n]*\n/;

export function defineScript<K extends string, A extends string, R>(
  definition: ScriptDefinition<K, A, R>,
): Script<K, A, R> {
  const { name, keys, args, hasRest = false, decode } = definition;
  const lua = assemble(name, typeof definition.lua === "string" ? [definition.lua] : definition.lua);
  for (const [i, key] of keys.entries()) requireLocal(name, lua, key, `KEYS[${i + 1}]`);
  for (const [i, arg] of args.entries()) requireLocal(name, lua, arg, `ARGV[${i + 1}]`);
  if (!hasRest) requireAllDeclared(name, lua, keys.length, args.length);
  defined.set(name, lua);
  return async (redis, input) => {
    const commands = redis as unknown as Record<string, Command | undefined>;
    if (commands[name] === undefined) redis.defineCommand(name, { lua });
    const allKeys = keys.map((key) => input[key] as string);
    if (input.restKeys) allKeys.push(...input.restKeys);
    const positional: Arg[] = [allKeys.length, ...allKeys];
    for (const arg of args) positional.push(input[arg] as Arg);
    if (input.restArgs) for (const arg of input.restArgs) positional.push(arg);
    return decode(await commands[name]!(...positional));
  };
}

/** One text with the script's own `#!lua` line first. Redis checks memory and declared keys up front only for scripts that have it. */
function assemble(name: string, parts: readonly string[]): string {
  const own = parts.at(-1)!;
  const shebang = SHEBANG.exec(own)?.[0];
  assert(shebang, `script ${name}: the first line must be #!lua, with flags if any`);
  return shebang + [...parts.slice(0, -1), own].map((part) => part.replace(SHEBANG, "")).join("\n");
}

function requireLocal(name: string, lua: string, wanted: string, position: string): void {
  const local = wanted.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const escaped = position.replace(/[[\]]/g, "\\$&");
  const declaration = new RegExp(`local ${local} = (?:tonumber\\()?${escaped}`);
  assert(declaration.test(lua), `script ${name}: expected "local ${local} = ${position}" in its Lua`);
}

function requireAllDeclared(name: string, lua: string, keyCount: number, argCount: number): void {
  for (const [, kind, index] of lua.matchAll(/(KEYS|ARGV)\[(\d+)\]/g)) {
    const limit = kind === "KEYS" ? keyCount : argCount;
    assert(Number(index) <= limit, `script ${name}: ${kind}[${index}] is used and not declared`);
  }
}
