/**
 * What is known of topics and groups beyond what runs here: the settings with which services declared them, in Redis, for every
 * process. Topics that the code declares (the product's) are given at the start and are nobody's to change.
 *
 * A declaration is the whole of the settings: again has no effect, other settings replace the old ones and hold within CACHE_MS
 * everywhere, except that a group keeps its mode. When declareGroup has answered, trimming waits for the group.
 * Bounded: 1 000 topics, 100 groups of a topic, 200 webhooks.
 */

import { createHash } from "node:crypto";
import * as v from "valibot";
import { systemClock } from "../clock.ts";
import { AppError, type Issue } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import groupDeclareLua from "../redis/lua/mq-group-declare.lua" with { type: "text" };
import topicDeclareLua from "../redis/lua/mq-topic-declare.lua" with { type: "text" };
import type { Declaration, GroupMode, QueueContext } from "./consumer.ts";
import { declare } from "./consumer.ts";
import { registerEverywhere } from "./group.ts";
import {
  type GroupSettings,
  GroupSettingsSchema,
  type TopicSettings,
  TopicSettingsSchema,
  toStartPoint,
} from "./settings.ts";
import { type AnyTopic, defineTopic, type Topic } from "./topic.ts";

/** Each has its streams, and is trimmed and measured in every round. */
const TOPICS_MAX = 1_000;
/** Trimming and measuring look at every group of every partition. */
const GROUPS_MAX = 100;
/** Of all topics: each takes a connection for its reads in every process that sends webhooks. */
const WEBHOOKS_MAX = 200;
/** A setting that was changed holds everywhere after so long. */
const CACHE_MS = 500;
/** Names remembered, those that do not exist included. */
const CACHED_MAX = 5_000;

const topicScript = defineScript({
  name: "mqTopicDeclare",
  lua: topicDeclareLua,
  keys: ["topics"],
  args: ["topic", "settings", "ensure", "limit"],
  decode: (reply) => reply as ["created" | "exists" | "full", string],
});

const groupScript = defineScript({
  name: "mqGroupDeclare",
  lua: groupDeclareLua,
  keys: ["groups", "webhooks"],
  args: ["topic", "group", "mode", "settings", "revision", "groupsMax", "webhooksMax"],
  decode: (reply) => reply as ["created" | "exists" | "mode" | "full" | "webhooks", string],
});

export interface DeclaredTopic {
  readonly topic: string;
  readonly settings: TopicSettings;
  /** Since when, ms; undefined of those that the code declares. */
  readonly created: number | undefined;
}

export interface DeclaredGroup {
  readonly topic: string;
  readonly group: string;
  readonly settings: GroupSettings;
  readonly created: number;
}

export interface Webhook {
  readonly topic: string;
  readonly group: string;
  /** Another one when the settings have changed. */
  readonly revision: string;
}

export interface Catalog {
  /** Declares a topic, or replaces its settings. Throws INVALID (also: 1 000 topics exist), FORBIDDEN for the code's own topics. */
  declareTopic(topic: string, settings: TopicSettings): Promise<DeclaredTopic & { readonly isNew: boolean }>;
  /**
   * Declares a group, or replaces its settings; its topic is declared too when it is not. Throws INVALID, and CONFLICT when the group
   * has another mode.
   */
  declareGroup(
    topic: string,
    group: string,
    settings: v.InferInput<typeof GroupSettingsSchema>,
  ): Promise<DeclaredGroup & { readonly isNew: boolean }>;
  /**
   * Forgets a group's settings; its place in the topic is control.dropGroup's to remove. When it resolves no process knows the group
   * from before: no receive of it begins any more.
   */
  forgetGroup(topic: string, group: string): Promise<void>;
  /** A topic to publish to or read from, its data any JSON. Throws NOT_FOUND. */
  topicOf(topic: string): Promise<Topic<unknown>>;
  /** As topicOf; a topic that does not exist is declared with the default settings. Throws as declareTopic. */
  ensureTopic(topic: string): Promise<Topic<unknown>>;
  /** Every topic, the code's own first. */
  topics(): Promise<DeclaredTopic[]>;
  /** Throws NOT_FOUND when no service declared it. */
  groupOf(topic: string, group: string): Promise<DeclaredGroup>;
  /** The groups of a topic that services declared. */
  groups(topic: string): Promise<DeclaredGroup[]>;
  /** The groups that a webhook delivers. One command. */
  webhooks(): Promise<Webhook[]>;
}

const Anything = v.unknown();

interface Cached<T> {
  readonly value: Promise<T>;
  readonly readAt: number;
}

export function createCatalog(context: QueueContext, own: readonly Topic<unknown>[]): Catalog {
  const { keys, redis } = context;
  const ownTopics = new Map(own.map((topic) => [topic.name, topic]));
  const cache = new Map<string, Cached<string | null>>();
  /** The Topic made of stored settings, so that an unchanged one is the same object. */
  const made = new Map<string, { readonly stored: string; readonly topic: Topic<unknown> }>();

  /** A hash field, from memory when it was read within CACHE_MS. */
  function read(key: string, field: string): Promise<string | null> {
    const name = `${key} ${field}`;
    const now = performance.now();
    const cached = cache.get(name);
    if (cached && now - cached.readAt < CACHE_MS) return cached.value;
    if (!cached && cache.size >= CACHED_MAX) cache.delete(cache.keys().next().value!);
    const value = redis.commands.hget(key, field).catch((error: unknown) => {
      cache.delete(name);
      throw toAppError(error);
    });
    cache.set(name, { value, readAt: now });
    return value;
  }

  function remember(key: string, field: string, stored: string): void {
    cache.set(`${key} ${field}`, { value: Promise.resolve(stored), readAt: performance.now() });
  }

  function toTopic(name: string, stored: string): Topic<unknown> {
    const existing = made.get(name);
    if (existing?.stored === stored) return existing.topic;
    const topic = buildTopic(name, parseTopic(name, stored).settings);
    made.set(name, { stored, topic });
    return topic;
  }

  async function writeTopic(topic: string, settings: TopicSettings, ensure: "0" | "1") {
    checkName("topic", topic);
    const [outcome, stored] = await run(
      topicScript(redis.commands, {
        topics: keys.topics(),
        topic,
        settings: JSON.stringify(settings),
        ensure,
        limit: TOPICS_MAX,
      }),
    );
    if (outcome === "full")
      throw refusal("topic", `cannot be added: there are ${TOPICS_MAX} topics, the most there may be`);
    remember(keys.topics(), topic, stored);
    return { stored, isNew: outcome === "created" };
  }

  async function ensureTopic(name: string): Promise<Topic<unknown>> {
    const found = ownTopics.get(name);
    if (found) return found;
    const stored = await read(keys.topics(), name);
    return toTopic(name, stored ?? (await writeTopic(name, {}, "1")).stored);
  }

  async function writeGroup(topic: string, group: string, settings: GroupSettings) {
    const text = JSON.stringify(settings);
    const [outcome, stored] = await run(
      groupScript(redis.commands, {
        groups: keys.groupSettings(topic),
        webhooks: keys.webhooks(),
        topic,
        group,
        mode: settings.mode,
        settings: text,
        revision: settings.webhook ? revisionOf(text) : "",
        groupsMax: GROUPS_MAX,
        webhooksMax: WEBHOOKS_MAX,
      }),
    );
    if (outcome === "mode") throw otherMode(topic, group, stored, settings.mode);
    if (outcome === "full")
      throw refusal("group", `cannot be added: ${topic} has ${GROUPS_MAX} groups, the most it may have`);
    if (outcome === "webhooks")
      throw refusal("webhook", `cannot be added: there are ${WEBHOOKS_MAX}, the most there may be`);
    remember(keys.groupSettings(topic), group, stored);
    return { stored, isNew: outcome === "created" };
  }

  async function forgetGroup(topic: string, group: string): Promise<void> {
    const { commands } = redis;
    cache.delete(`${keys.groupSettings(topic)} ${group}`);
    await run(
      Promise.all([
        commands.hdel(keys.groupSettings(topic), group),
        commands.hdel(keys.webhooks(), `${topic} ${group}`),
      ]),
    );
  }

  return {
    async declareTopic(topic, settings) {
      if (ownTopics.has(topic)) throw new AppError("FORBIDDEN", `topic ${topic} belongs to the product`);
      const { stored, isNew } = await writeTopic(topic, check(TopicSettingsSchema, settings), "0");
      return { ...parseTopic(topic, stored), isNew };
    },
    async declareGroup(topic, group, given) {
      checkName("group", group);
      const settings = check(GroupSettingsSchema, given);
      const declaration = declarationOf(group, settings);
      await ensureTopic(topic);
      const { stored, isNew } = await writeGroup(topic, group, settings);
      // Of a broadcast group nothing is kept: it reads from memory and holds up nothing.
      if (settings.mode !== "broadcast") {
        try {
          await registerEverywhere(context, topic, declaration);
        } catch (error) {
          // A group of the same name and another mode runs in some process: it was there first.
          if (isNew && error instanceof AppError && error.code === "CONFLICT") await forgetGroup(topic, group);
          throw error;
        }
      }
      return { ...parseGroup(topic, group, stored), isNew };
    },
    async forgetGroup(topic, group) {
      await forgetGroup(topic, group);
      await systemClock.sleep(CACHE_MS);
    },
    async topicOf(name) {
      const found = ownTopics.get(name);
      if (found) return found;
      const stored = await read(keys.topics(), name);
      if (stored === null) throw new AppError("NOT_FOUND", `There is no topic ${name}`);
      return toTopic(name, stored);
    },
    ensureTopic,
    async topics() {
      const stored = await run(redis.commands.hgetall(keys.topics()));
      const declared = Object.entries(stored).map(([topic, text]) => parseTopic(topic, text));
      return [...own.map(describeOwn), ...declared.sort((a, b) => (a.topic < b.topic ? -1 : 1))];
    },
    async groupOf(topic, group) {
      const stored = await read(keys.groupSettings(topic), group);
      if (stored === null) throw new AppError("NOT_FOUND", `There is no declared group ${group} of ${topic}`);
      return parseGroup(topic, group, stored);
    },
    async groups(topic) {
      const stored = await run(redis.commands.hgetall(keys.groupSettings(topic)));
      return Object.entries(stored).map(([group, text]) => parseGroup(topic, group, text));
    },
    async webhooks() {
      const stored = await run(redis.commands.hgetall(keys.webhooks()));
      return Object.entries(stored).map(([field, revision]) => {
        const [topic = "", group = ""] = field.split(" ");
        return { topic, group, revision };
      });
    },
  };
}

/** As a consumer in process would declare it: what `registerEverywhere` and pulls work with. */
export function declarationOf(group: string, settings: GroupSettings): Declaration<unknown> {
  const { mode, start, leaseMs, maxAttempts, backoff, onPoison, tags, webhook } = settings;
  const issues: Issue[] = [];
  if (onPoison !== undefined && mode !== "ordered")
    issues.push({ path: "onPoison", message: "is of ordered groups only" });
  if (webhook && mode === "broadcast")
    issues.push({ path: "webhook", message: "needs a group that is ordered or concurrent" });
  if (issues.length > 0) throw invalid(issues);
  return declare<unknown>({
    group,
    mode,
    start: toStartPoint(start),
    ...(leaseMs === undefined ? {} : { leaseMs }),
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(backoff === undefined ? {} : { backoff }),
    ...(onPoison === undefined ? {} : { onPoison }),
    ...(tags === undefined ? {} : { tags }),
    validate: false,
    handle: () => undefined,
  });
}

function buildTopic(name: string, { retentionMs, maxLength }: TopicSettings): Topic<unknown> {
  return defineTopic(name, {
    schema: Anything,
    ...(retentionMs === undefined ? {} : { retentionMs }),
    ...(maxLength === undefined ? {} : { lengthMax: maxLength, backlogMax: maxLength }),
  });
}

function describeOwn({ name, retentionMs, lengthMax }: AnyTopic): DeclaredTopic {
  return { topic: name, settings: { retentionMs, maxLength: lengthMax }, created: undefined };
}

function parseTopic(topic: string, stored: string): DeclaredTopic {
  const space = stored.indexOf(" ");
  const settings = JSON.parse(stored.slice(space + 1)) as TopicSettings;
  return { topic, settings, created: Number(stored.slice(0, space)) };
}

function parseGroup(topic: string, group: string, stored: string): DeclaredGroup {
  const created = stored.indexOf(" ");
  const mode = stored.indexOf(" ", created + 1);
  const settings = JSON.parse(stored.slice(mode + 1)) as GroupSettings;
  return { topic, group, settings, created: Number(stored.slice(0, created)) };
}

function revisionOf(settings: string): string {
  return createHash("sha256").update(settings).digest("base64url").slice(0, 22);
}

function checkName(path: string, name: string): void {
  if (!ID_PATTERN.test(name)) throw refusal(path, "must be 1..64 of [A-Za-z0-9_.-]");
}

function check<const S extends v.GenericSchema>(schema: S, value: unknown): v.InferOutput<S> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  throw invalid(result.issues.map((issue) => ({ path: v.getDotPath(issue) ?? "", message: issue.message })));
}

function refusal(path: string, message: string): AppError {
  return invalid([{ path, message }]);
}

function invalid(issues: readonly Issue[]): AppError {
  return new AppError("INVALID", issues.map(({ path, message }) => `${path} ${message}`.trim()).join("; "), { issues });
}

function otherMode(topic: string, group: string, existing: string, asked: GroupMode): AppError {
  return new AppError("CONFLICT", `group ${group} of ${topic} is ${existing}; it cannot become ${asked}`);
}

async function run<T>(command: Promise<T>): Promise<T> {
  try {
    return await command;
  } catch (error) {
    throw toAppError(error);
  }
}
