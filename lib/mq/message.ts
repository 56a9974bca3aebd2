/**
 * A message as a consumer sees it: a thin view of one stream entry. Nothing is parsed before it is asked for, for the
 * high-volume groups pass `raw` on and look no further.
 *
 *   entry   1753000000000-0   <id> <type> <key> <sequence> <properties JSON>  ──►  <data JSON>
 *           └ time ms ─┘      the only field's name; key, sequence and properties   its value
 *                             may be empty, only properties may hold a space
 *
 * What only some messages have stands before it, so that for all others one look at the first character is enough:
 *
 *   @t=vip;x=1753000060000;g=orders;r=1;o=17 <id> …      t tag · x not to be delivered after, ms · g for this group alone
 *                                                        (redriven) · r times redriven · o its first sequence (late-comers)
 *
 * One field, not six: each argument more costs Redis 0.15 µs at the append (Lua, AOF, listpack) and each reader a string.
 */

import * as v from "valibot";
import type { Issue } from "../errors.ts";
import type { Topic } from "./topic.ts";

export interface Message<D> {
  readonly id: string;
  readonly topic: string;
  readonly partition: number;
  /** The stream entry's id: its place in the partition. */
  readonly entry: string;
  readonly type: string;
  /** The order key; "" when the publisher gave none. */
  readonly key: string;
  readonly sequence: number | undefined;
  /** When Redis appended it, ms. */
  readonly time: number;
  /** The data's JSON text, untouched. */
  readonly raw: string;
  /** Parsed and validated on first use. Throws InvalidMessage, which buries the message, when it does not fit the schema. */
  readonly data: D;
  readonly properties: Readonly<Record<string, string>>;
  /** What groups filter by; "" when the publisher gave none. */
  readonly tag: string;
  /** Unix ms after which it is dropped undelivered; undefined: never. */
  readonly expireAt: number | undefined;
  /** Of a message that came later than its place (delayed, redriven): its sequence then, or its entry when it had none. */
  readonly originSequence: string | undefined;
  /** How often it was brought back from the dead letters. */
  readonly redrives: number;
  /** 1 at the first delivery, one more after every failure that counts. */
  readonly attempt: number;
}

/** One failed attempt: when (ms), in whose hands, and what was thrown. */
export type AttemptNote = readonly [atMs: number, member: string, error: string];

/** Attempts remembered of a delivery: the first and the latest. 1 + 16 retries fit. */
const HISTORY_MAX = 17;

/** One stream entry as Redis replies it: id, then field names and values in turn. */
export type StreamEntry = readonly [id: string, fields: readonly string[]];

/** `throw new Bury(reason)` in a handler: this message is hopeless, move it to dead letters now. */
export class Bury extends Error {
  override name = "Bury";
}

/** `throw new Later(ms)` in a handler: not now, again after `ms`; no attempt is counted. */
export class Later extends Error {
  override name = "Later";
  constructor(readonly ms: number) {
    super(`again in ${ms} ms`);
  }
}

/** The data is not JSON, does not fit the topic's schema, or the entry is not one of ours. Names the message, for batches. */
export class InvalidMessage extends Bury {
  override name = "InvalidMessage";
  constructor(
    readonly entry: string,
    readonly issues: readonly Issue[],
  ) {
    super(`invalid: ${issues.map(({ path, message }) => (path ? `${path} ${message}` : message)).join("; ")}`);
  }
}

/** Positions of the parts in a header. */
const AT = { id: 0, type: 1, key: 2, sequence: 3, properties: 4 } as const;
const NO_HEADER: readonly string[] = ["", "", "", "", ""];
/** A dead letter names the first faults, not ten thousand. */
const ISSUES_MAX = 10;

/** Attributes in front of a header, by the letters that they have there. Values hold neither white space nor `;`. */
export interface Attributes {
  /** Tag. */
  readonly t?: string;
  /** Expires, ms. */
  readonly x?: string;
  /** The only group that it is for. */
  readonly g?: string;
  /** Times redriven. */
  readonly r?: string;
  /** Origin sequence. */
  readonly o?: string;
}

export const NO_ATTRIBUTES: Attributes = Object.freeze({});
const AT_SIGN = 0x40;

/** As mq_append takes them; "" for none. */
export function formatAttributes(attributes: Attributes): string {
  if (attributes === NO_ATTRIBUTES) return "";
  return Object.entries(attributes)
    .filter(([, value]) => value !== undefined && value !== "")
    .map(([name, value]) => `${name}=${value}`)
    .join(";");
}

export function parseAttributes(text: string): Attributes {
  if (text === "") return NO_ATTRIBUTES;
  return Object.fromEntries(text.split(";").map((part) => part.split("=", 2) as [string, string])) as Attributes;
}

/** Deliveries of one entry: the Message that handlers see, and what retries count. */
export class Delivery<D> implements Message<D> {
  attempt = 1;
  /** Failed attempts, oldest first. */
  history: readonly AttemptNote[] = NO_HISTORY;
  /** When an attempt first failed, ms; 0 while none did. */
  firstFailureMs = 0;
  /** Entries ever added to the partition up to this one. */
  ordinal = 0;
  readonly partition: number;
  readonly entry: string;
  /** As they lie in the stream: header, data. */
  readonly fields: readonly string[];
  #header: readonly string[] | undefined;
  #attributes: Attributes | undefined;
  readonly #topic: Topic<D>;
  #data: D | undefined;
  #isParsed = false;
  #properties: Readonly<Record<string, string>> | undefined;

  constructor(topic: Topic<D>, partition: number, entry: StreamEntry) {
    this.#topic = topic;
    this.partition = partition;
    this.entry = entry[0];
    this.fields = entry[1];
  }

  get topic(): string {
    return this.#topic.name;
  }
  get id(): string {
    return this.header[AT.id]!;
  }
  get type(): string {
    return this.header[AT.type]!;
  }
  get key(): string {
    return this.header[AT.key]!;
  }
  get sequence(): number | undefined {
    const text = this.header[AT.sequence];
    return text ? Number(text) : undefined;
  }
  get time(): number {
    return timeOfEntry(this.entry);
  }
  get raw(): string {
    return this.fields[1] ?? "";
  }

  get tag(): string {
    return this.attributes.t ?? "";
  }
  get expireAt(): number | undefined {
    const { x } = this.attributes;
    return x === undefined ? undefined : Number(x);
  }
  get originSequence(): string | undefined {
    return this.attributes.o;
  }
  get redrives(): number {
    return Number(this.attributes.r ?? 0);
  }

  /** Whether attributes stand before the header: of the few that a group may have to pass over. One look. */
  get hasAttributes(): boolean {
    return this.fields[0]?.charCodeAt(0) === AT_SIGN;
  }

  get attributes(): Attributes {
    this.#attributes ??= this.hasAttributes ? parseAttributes(attributesOf(this.fields[0]!)) : NO_ATTRIBUTES;
    return this.#attributes;
  }

  /** Remembers a failed attempt: the first and the latest ones. */
  note(atMs: number, member: string, error: string): void {
    this.firstFailureMs ||= atMs;
    const kept = this.history.length < HISTORY_MAX ? this.history : [this.history[0]!, ...this.history.slice(2)];
    this.history = [...kept, [atMs, member, error]];
  }

  /** Whether the entry holds a message, and not something that another program appended. */
  get isWellFormed(): boolean {
    return this.fields.length === 2 && this.header !== NO_HEADER;
  }

  /** Id, type, key, sequence, properties. Empty ones when the entry is none of ours. */
  private get header(): readonly string[] {
    this.#header ??= parseHeader(this.fields[0] ?? "");
    return this.#header;
  }

  /** Id, type, key, sequence, data, properties, attributes, as mq_append takes them. */
  get parts(): readonly string[] {
    const [id, type, key, sequence, properties] = this.header;
    return [id!, type!, key!, sequence!, this.raw, properties!, formatAttributes(this.attributes)];
  }

  get data(): D {
    if (this.#isParsed) return this.#data as D;
    if (!this.isWellFormed) {
      throw new InvalidMessage(this.entry, [
        { path: "", message: "the entry does not have the header and data of a message" },
      ]);
    }
    let parsed: unknown;
    try {
      parsed = JSON.parse(this.raw);
    } catch (error) {
      throw new InvalidMessage(this.entry, [{ path: "data", message: `is not JSON: ${(error as Error).message}` }]);
    }
    const result = v.safeParse(this.#topic.schema, parsed);
    if (!result.success) throw new InvalidMessage(this.entry, issuesOf(result.issues));
    this.#data = result.output;
    this.#isParsed = true;
    return result.output;
  }

  get properties(): Readonly<Record<string, string>> {
    this.#properties ??= this.#parseProperties();
    return this.#properties;
  }

  #parseProperties(): Readonly<Record<string, string>> {
    const text = this.header[AT.properties];
    if (!text) return NO_PROPERTIES;
    try {
      return JSON.parse(text) as Record<string, string>;
    } catch (error) {
      throw new InvalidMessage(this.entry, [
        { path: "properties", message: `is not JSON: ${(error as Error).message}` },
      ]);
    }
  }
}

const NO_PROPERTIES: Readonly<Record<string, string>> = Object.freeze({});
const NO_HISTORY: readonly AttemptNote[] = Object.freeze([]);

function attributesOf(header: string): string {
  const end = header.indexOf(" ");
  return end < 0 ? "" : header.slice(1, end);
}

/** By hand: split(" ") with a limit loses the rest, which is the properties. */
function parseHeader(field: string): readonly string[] {
  const header = field.charCodeAt(0) === AT_SIGN ? field.slice(field.indexOf(" ") + 1) : field;
  const type = header.indexOf(" ");
  const key = header.indexOf(" ", type + 1);
  const sequence = header.indexOf(" ", key + 1);
  const properties = header.indexOf(" ", sequence + 1);
  if (type < 0 || key < 0 || sequence < 0 || properties < 0) return NO_HEADER;
  return [
    header.slice(0, type),
    header.slice(type + 1, key),
    header.slice(key + 1, sequence),
    header.slice(sequence + 1, properties),
    header.slice(properties + 1),
  ];
}

/** The ms part of an entry id. */
export function timeOfEntry(entry: string): number {
  return Number(entry.slice(0, entry.indexOf("-")));
}

/** Valibot's issues as ours: dot path and text, without the input. */
export function issuesOf(issues: readonly v.BaseIssue<unknown>[]): readonly Issue[] {
  return issues
    .slice(0, ISSUES_MAX)
    .map((issue) => ({ path: ["data", v.getDotPath(issue)].filter(Boolean).join("."), message: issue.message }));
}
