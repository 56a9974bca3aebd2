/**
 * Who may talk to whom: the one table. An upper layer calls a lower one by RPC; a lower layer reaches an upper one, or a peer,
 * only by publishing to a topic that the other consumes. The RPC client and server and every role's queue are bound to it, so a
 * violation stops the process at its start, not a user at run time.
 */

import { assert } from "../assert.ts";
import { AppError } from "../errors.ts";

export type Role =
  | "gateway"
  | "logic"
  | "extlogic"
  | "pusher"
  | "scheduler"
  | "archive"
  /** Downstream services outside the layers: they consume and are never called. */
  | "orders"
  | "trades"
  | "ads";

interface LayerEntry {
  /** 3 entry, 2 business, 1 data; 0 stands outside the layers. */
  readonly layer: 0 | 1 | 2 | 3;
  /** Services that it may call by RPC; each lies in a lower layer. */
  readonly calls: readonly Role[];
  /** Topics of the product that it may publish to. Topics of the users (no `im.` in front) are open to all. */
  readonly publishes: readonly string[];
  /** Topic -> the groups that it may be a member of; `*`: any group that no role of the table has. */
  readonly consumes: Readonly<Record<string, readonly string[]>>;
}

/** Topics under it are the product's; the table says who may have to do with them. */
const RESERVED_PREFIX = "im.";

export const LAYERS: Readonly<Record<Role, LayerEntry>> = {
  // What services publish with a delay goes through im.relay to the timers.
  gateway: { layer: 3, calls: ["logic"], publishes: ["im.relay"], consumes: {} },
  logic: {
    layer: 2,
    calls: ["archive"],
    publishes: ["im.events", "im.push", "im.users", "im.reminders", "im.relay"],
    consumes: { "im.events": ["delivery", "inbox"], "im.commands": ["logic"], "im.reminders": ["logic"] },
  },
  extlogic: {
    layer: 2,
    calls: [],
    publishes: ["im.commands", "im.users", "im.push"],
    // `*`: the webhooks of outside services, each a group of its own.
    consumes: { "im.events": ["extlogic", "*"], "im.push": ["*"], "im.users": ["*"], "im.reminders": ["*"] },
  },
  pusher: {
    layer: 2,
    calls: ["archive"],
    // Its own steps: a burst that is due, one device's send.
    publishes: ["im.push", "im.relay"],
    consumes: { "im.push": ["pusher", "devices"] },
  },
  scheduler: {
    layer: 2,
    calls: [],
    publishes: ["im.commands", "im.reminders"],
    consumes: { "im.relay": ["relay"] },
  },
  archive: { layer: 1, calls: [], publishes: ["im.commands"], consumes: { "im.events": ["archive"] } },
  orders: { layer: 0, calls: [], publishes: [], consumes: { "im.events": ["orders"] } },
  trades: { layer: 0, calls: [], publishes: [], consumes: { "im.events": ["trades"] } },
  ads: { layer: 0, calls: [], publishes: [], consumes: { "im.events": ["ads"] } },
};

export const ROLES = Object.keys(LAYERS) as readonly Role[];

export function isRole(name: string): name is Role {
  return Object.hasOwn(LAYERS, name);
}

export function mayCall(from: Role, service: string): boolean {
  return (LAYERS[from].calls as readonly string[]).includes(service);
}

export function mayPublish(from: Role, topic: string): boolean {
  return !isReserved(topic) || LAYERS[from].publishes.includes(topic);
}

export function mayConsume(role: Role, topic: string, group: string): boolean {
  if (!isReserved(topic)) return true;
  const groups = LAYERS[role].consumes[topic] ?? [];
  return groups.includes(group) || (groups.includes("*") && !isGroupOfTable(topic, group));
}

/** Whether the topic is one of the product's, which only its roles publish to. */
export function isReserved(topic: string): boolean {
  return topic.startsWith(RESERVED_PREFIX);
}

/** Whether outside services may read the topic at all: a user's, or one that the table opens to any group. */
export function isOpenToServices(topic: string): boolean {
  return !isReserved(topic) || ROLES.some((role) => LAYERS[role].consumes[topic]?.includes("*"));
}

/** Whether a role has this group: outside services must not take its name. */
export function isGroupOfTable(topic: string, group: string): boolean {
  // A user's topic may bear any name, those of Object.prototype too.
  return isReserved(topic) && ROLES.some((role) => LAYERS[role].consumes[topic]?.includes(group));
}

/** Throws LAYER_VIOLATION that names both ends and the way to take instead. */
export function assertMayCall(from: Role, service: string): void {
  if (mayCall(from, service)) return;
  throw new AppError(
    "LAYER_VIOLATION",
    `${describe(from)} may not call ${describe(service)}; ${insteadOfCall(from, service)}`,
  );
}

/** Throws LAYER_VIOLATION that names the topics that the role may publish to. */
export function assertMayPublish(from: Role, topic: string): void {
  if (mayPublish(from, topic)) return;
  const consumers = ROLES.filter((role) => topic in LAYERS[role].consumes);
  const publishers = ROLES.filter((role) => mayPublish(role, topic));
  throw new AppError(
    "LAYER_VIOLATION",
    `${describe(from)} may not publish to ${topic} (consumed by ${list(consumers)}): only ${list(publishers)} may; ` +
      `${from} may publish to ${list(LAYERS[from].publishes)}`,
  );
}

/** Throws LAYER_VIOLATION that names who publishes the topic and what the role may consume. */
export function assertMayConsume(role: Role, topic: string, group: string): void {
  if (mayConsume(role, topic, group)) return;
  const publishers = ROLES.filter((publisher) => mayPublish(publisher, topic));
  const allowed = Object.entries(LAYERS[role].consumes).map(([name, groups]) => `${name} as ${groups.join(" or ")}`);
  throw new AppError(
    "LAYER_VIOLATION",
    `${describe(role)} may not consume ${topic} (published by ${list(publishers)}) as group ${group}; ` +
      `${role} may consume ${list(allowed)}`,
  );
}

/** Every call goes to a strictly lower layer, and every topic that is published has a name. Checked once, at load. */
function assertTableIsSound(): void {
  for (const role of ROLES) {
    for (const service of LAYERS[role].calls) {
      assert(
        LAYERS[service].layer > 0 && LAYERS[service].layer < LAYERS[role].layer,
        `layers: ${role} may not call ${service}, which is not below it`,
      );
    }
  }
}
assertTableIsSound();

/** The graph of who talks to whom, for people. */
export function renderLayers(): string {
  const lines: string[] = [];
  const names: Record<LayerEntry["layer"], string> = {
    3: "layer 3  entry",
    2: "layer 2  business",
    1: "layer 1  data",
    0: "outside  downstream services",
  };
  for (const layer of [3, 2, 1, 0] as const) {
    lines.push(names[layer]);
    for (const role of ROLES.filter((name) => LAYERS[name].layer === layer)) {
      const { calls, publishes, consumes } = LAYERS[role];
      const arrows = [
        ...calls.map((service) => `── RPC ──► ${service}`),
        ...publishes.map((topic) => `── publish ──► ${topic}${renderConsumers(topic)}`),
        ...Object.entries(consumes).map(([topic, groups]) => `◄── consume ── ${topic} as ${groups.join(", ")}`),
      ];
      if (arrows.length === 0) arrows.push("(talks to nobody)");
      for (const [i, arrow] of arrows.entries()) lines.push(`  ${(i === 0 ? role : "").padEnd(10)} ${arrow}`);
    }
    lines.push("");
  }
  return lines.join("\n").trimEnd();
}

function renderConsumers(topic: string): string {
  const consumers = ROLES.filter((role) => topic in LAYERS[role].consumes);
  return consumers.length === 0 ? "" : ` ──► ${consumers.join(", ")}`;
}

function describe(name: string): string {
  if (!isRole(name)) return `${name} (no known role)`;
  const { layer } = LAYERS[name];
  return layer === 0 ? `${name} (outside the layers)` : `${name} (layer ${layer})`;
}

/** The topic by which `from` reaches `service`; where it has none, the service between them; else what they could use. */
function insteadOfCall(from: Role, service: string): string {
  if (!isRole(service)) return `${from} may call ${list(LAYERS[from].calls)}`;
  const topics = Object.keys(LAYERS[service].consumes);
  const allowed = topics.find((topic) => mayPublish(from, topic));
  if (allowed) return `publish to ${allowed}, which ${service} consumes`;
  const between = LAYERS[from].calls.find((middle) => mayCall(middle, service));
  if (between) return `call ${between}, which calls ${service}`;
  if (topics.length > 0) return `what ${service} consumes is ${list(topics)}: let a publisher of it carry the event`;
  return `${service} takes neither calls nor messages from ${from}`;
}

function list(names: readonly string[]): string {
  return names.length === 0 ? "nothing" : names.join(", ");
}
