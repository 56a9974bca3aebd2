/** Routes of topics: declare, list, state. */

import * as v from "valibot";
import { hasScope } from "../../lib/http/index.ts";
import {
  type DeclaredGroup,
  type GroupDescription,
  type Queue,
  type Topic,
  TopicSettingsSchema,
} from "../../lib/mq/index.ts";
import { OpenSettings, openSettingsOf } from "./service-groups.ts";
import { assertMayRead, assertMayWrite, Name } from "./service-inputs.ts";
import { consumer, publisher, publisherOrAdmin, type ServiceRoute, serviceRoute } from "./service-route.ts";

const TopicReply = v.strictObject({
  topic: v.string(),
  retentionMs: v.number(),
  maxLength: v.number(),
  created: v.optional(v.number()),
});
const GroupState = v.strictObject({
  group: v.string(),
  mode: v.string(),
  lag: v.number(),
  open: v.number(),
  oldestPendingMs: v.number(),
  deadLetters: v.number(),
  parkedKeys: v.number(),
  sideMessages: v.number(),
  paused: v.optional(v.strictObject({ at: v.number(), reason: v.string() })),
  /** As a service declared it. */
  settings: v.optional(OpenSettings),
});
const TopicState = v.strictObject({
  ...TopicReply.entries,
  partitions: v.number(),
  length: v.number(),
  groups: v.array(GroupState),
});

export function topicRoutes(queue: Queue): readonly ServiceRoute[] {
  const one = "/v1/topics/:topic";
  const { catalog } = queue;
  return [
    serviceRoute(
      "put",
      one,
      {
        summary: "Declare a topic, or replace its settings",
        scopes: publisherOrAdmin,
        input: v.strictObject({ topic: Name, ...TopicSettingsSchema.entries }),
        mayLackBody: true,
        replies: { 201: TopicReply, 200: TopicReply },
      },
      async ({ c, params: { topic, ...settings } }) => {
        assertMayWrite(topic);
        const { isNew, created } = await catalog.declareTopic(topic, settings);
        return c.json(showTopic(await catalog.topicOf(topic), created), isNew ? 201 : 200);
      },
    ),
    serviceRoute(
      "get",
      "/v1/topics",
      {
        summary: "List the topics that the key has to do with",
        scopes: () => ["publish:", "consume:", "admin"],
        input: v.strictObject({}),
        replies: { 200: v.strictObject({ topics: v.array(TopicReply) }) },
      },
      async ({ c, caller }) => {
        const declared = await catalog.topics();
        const seen = declared.filter(
          ({ topic }) =>
            hasScope(caller, "admin") || hasScope(caller, `consume:${topic}`) || hasScope(caller, `publish:${topic}`),
        );
        const topics = await Promise.all(
          seen.map(async ({ topic, created }) => showTopic(await catalog.topicOf(topic), created)),
        );
        return c.json({ topics });
      },
    ),
    serviceRoute(
      "get",
      one,
      {
        summary: "State of a topic and its groups",
        scopes: (path) => [...publisher(path), ...consumer(path), "admin"],
        input: v.strictObject({ topic: Name }),
        replies: { 200: TopicState },
      },
      async ({ c, caller, params }) => {
        if (!hasScope(caller, "admin")) assertMayRead(params.topic);
        const topic = await catalog.topicOf(params.topic);
        const [{ partitions, length, groups }, topics, declared] = await Promise.all([
          queue.describe(topic),
          catalog.topics(),
          catalog.groups(topic.name),
        ]);
        const { created } = topics.find((one) => one.topic === topic.name) ?? {};
        return c.json({ ...showTopic(topic, created), partitions, length, groups: showGroups(groups, declared) });
      },
    ),
  ];
}

function showTopic({ name, retentionMs, lengthMax }: Topic<unknown>, created: number | undefined) {
  return { topic: name, retentionMs, maxLength: lengthMax, ...(created === undefined ? {} : { created }) };
}

/** What runs, with the settings of what services declared. A declared broadcast group keeps nothing, and so has no state. */
function showGroups(descriptions: readonly GroupDescription[], declared: readonly DeclaredGroup[]) {
  const settingsOf = new Map(declared.map((one) => [one.group, openSettingsOf(one)]));
  const running = descriptions.map((description) => {
    const { group, mode, lag, open, oldestMs, deadLetters, parkedKeys, sideMessages, paused } = description;
    return {
      ...{ group, mode, lag, open, oldestPendingMs: oldestMs, deadLetters, parkedKeys, sideMessages },
      ...(paused ? { paused } : {}),
      ...(settingsOf.has(group) ? { settings: settingsOf.get(group) } : {}),
    };
  });
  const names = new Set(descriptions.map(({ group }) => group));
  const others = declared
    .filter(({ group }) => !names.has(group))
    .map(({ group, settings: { mode } }) => ({ ...NOTHING, group, mode, settings: settingsOf.get(group) }));
  return [...running, ...others];
}

const NOTHING = { lag: 0, open: 0, oldestPendingMs: 0, deadLetters: 0, parkedKeys: 0, sideMessages: 0 };
