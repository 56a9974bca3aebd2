/**
 * Writes to keys of the user's own, done by the very script that appends a message or finishes one: state and message change
 * together or not at all. A key is named by the user and lies in the partition of the message's key.
 *
 *   [["HINCRBY", "stock", "tea", -1], ["ZADD", "orders", 1753000000000, "order-7"]]
 *
 * Form and limits are checked here, types and integers by Redis before the first write (mq-writes.lua).
 */

import { AppError, type Issue } from "../errors.ts";
import { USER_ID_PATTERN } from "../id.ts";
import type { Keys } from "../redis/index.ts";

/** Text, or a number that is stored as text. */
type Text = string | number;

/** As the Redis commands of these names. SET takes no options; every integer lies within 2^53. */
export type Write =
  | readonly ["SET", key: string, value: Text]
  | readonly ["DEL", key: string]
  | readonly ["INCRBY", key: string, by: number]
  | readonly ["PEXPIRE", key: string, ms: number]
  | readonly ["HSET", key: string, ...fieldsAndValues: readonly Text[]]
  | readonly ["HDEL", key: string, ...fields: readonly Text[]]
  | readonly ["HINCRBY", key: string, field: Text, by: number]
  | readonly ["SADD" | "SREM" | "ZREM" | "RPUSH" | "LPUSH", key: string, ...members: readonly Text[]]
  | readonly ["ZADD", key: string, ...scoresAndMembers: readonly Text[]]
  | readonly ["ZINCRBY", key: string, by: number, member: Text];

/** A script of some 0.5 ms. */
const WRITES_MAX = 64;
/** Of one write: what Lua unpacks at once. */
const ARGUMENTS_MAX = 128;
/** All keys and arguments together: as much as the data of a message. */
const BYTES_MAX = 256 * 1024;
/** A year: what is to stay longer needs no expiry. */
const EXPIRY_MS_MAX = 366 * 24 * 3_600_000;

type Form = "text" | "integer" | "score" | "ms";

interface Command {
  readonly forms: readonly Form[];
  /** The forms may come again and again. */
  readonly repeats: boolean;
}

const MEMBERS: Command = { forms: ["text"], repeats: true };
const COMMANDS: Readonly<Record<Write[0], Command>> = {
  SET: { forms: ["text"], repeats: false },
  DEL: { forms: [], repeats: false },
  INCRBY: { forms: ["integer"], repeats: false },
  PEXPIRE: { forms: ["ms"], repeats: false },
  HSET: { forms: ["text", "text"], repeats: true },
  HDEL: MEMBERS,
  HINCRBY: { forms: ["text", "integer"], repeats: false },
  SADD: MEMBERS,
  SREM: MEMBERS,
  ZADD: { forms: ["score", "text"], repeats: true },
  ZINCRBY: { forms: ["score", "text"], repeats: false },
  ZREM: MEMBERS,
  RPUSH: MEMBERS,
  LPUSH: MEMBERS,
};

const FORMS: Readonly<Record<Form, { readonly fits: (value: unknown) => boolean; readonly message: string }>> = {
  text: { fits: (value) => typeof value === "string" || Number.isFinite(value), message: "must be text or a number" },
  integer: { fits: Number.isSafeInteger, message: "must be a whole number within 2^53" },
  score: { fits: Number.isFinite, message: "must be a number" },
  ms: {
    fits: (value) => Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= EXPIRY_MS_MAX,
    message: `must be a whole number of ms from 1 to ${EXPIRY_MS_MAX}`,
  },
};

/** Writes as scripts take them: own keys each once, and the arguments that mq-writes.lua reads. */
export interface FormattedWrites {
  readonly keys: readonly string[];
  readonly args: readonly Text[];
  readonly bytes: number;
}

/** Where a key of the user's own lies, to read it with any Redis client. */
export interface OwnKey {
  readonly partition: number;
  readonly key: string;
}

/** Throws AppError INVALID when the name is outside the alphabet of keys. */
export function ownKey(keys: Keys, key: string, name: string): OwnKey {
  if (!USER_ID_PATTERN.test(name)) throw refused([{ path: "name", message: NAME_MESSAGE }]);
  const partition = keys.partitionOf(key);
  return { partition, key: keys.own(partition, name) };
}

/** Throws AppError INVALID that names each fault and its limit, or TOO_LARGE. */
export function formatWrites(keys: Keys, partition: number, writes: readonly Write[]): FormattedWrites {
  if (writes.length > WRITES_MAX) {
    throw refused([{ path: "writes", message: `are ${writes.length}; the limit is ${WRITES_MAX}` }]);
  }
  const issues = writes.flatMap((write, i) => issuesOf(write, `writes.${i}`));
  if (issues.length > 0) throw refused(issues);
  const numbers = new Map<string, number>();
  const args: Text[] = [writes.length];
  let bytes = 0;
  for (const [command, name, ...given] of writes) {
    if (!numbers.has(name)) numbers.set(name, numbers.size + 1);
    args.push(command, numbers.get(name)!, given.length, ...given);
    for (const value of [name, ...given]) bytes += Buffer.byteLength(String(value));
  }
  if (bytes > BYTES_MAX) {
    const message = `are ${bytes} bytes; the limit is ${BYTES_MAX}`;
    throw new AppError("TOO_LARGE", `writes ${message}`, { issues: [{ path: "writes", message }] });
  }
  return { keys: Array.from(numbers.keys(), (name) => keys.own(partition, name)), args, bytes };
}

/** What Redis found when it looked at the keys: nothing was written. `number` counts from 1. */
export function refusedByState(number: number, why: string): AppError {
  return refused([{ path: `writes.${number - 1}`, message: why }]);
}

const NAME_MESSAGE = "must be 1..128 of [A-Za-z0-9_.@|+=-]";

function issuesOf(write: Write, path: string): Issue[] {
  const [name, key, ...given] = write;
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!command) return [{ path: `${path}.0`, message: `must be one of ${Object.keys(COMMANDS).join(", ")}` }];
  const issues: Issue[] = [];
  if (typeof key !== "string" || !USER_ID_PATTERN.test(key)) issues.push({ path: `${path}.1`, message: NAME_MESSAGE });
  const { forms, repeats } = command;
  const hasFullRows = repeats ? given.length > 0 && given.length % forms.length === 0 : given.length === forms.length;
  if (!hasFullRows) {
    const wanted = repeats ? `${forms.length} arguments behind the key, or a multiple` : `${forms.length} arguments`;
    issues.push({ path, message: `${name} takes ${wanted}, not ${given.length}` });
  } else if (given.length > ARGUMENTS_MAX) {
    issues.push({ path, message: `has ${given.length} arguments; the limit is ${ARGUMENTS_MAX}` });
  } else {
    for (const [i, value] of given.entries()) {
      const { fits, message } = FORMS[forms[i % forms.length]!];
      if (!fits(value)) issues.push({ path: `${path}.${i + 2}`, message });
    }
  }
  return issues;
}

function refused(issues: readonly Issue[]): AppError {
  const lines = issues.map(({ path, message }) => `${path} ${message}`).join("; ");
  return new AppError("INVALID", `writes refused: ${lines}`, { issues });
}
