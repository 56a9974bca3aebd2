/** /openapi.json and /asyncapi.json by the rules that their readers (generators, viewers) break on. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";
import { readSources } from "../support/sources.ts";

let store: TestStore;
let chat: TestChat;
beforeAll(async () => {
  store = await openTestStore("documents");
  chat = await openTestChat(store);
});
afterAll(async () => {
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
});

interface Schema {
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly additionalProperties?: boolean | Schema;
  readonly pattern?: string;
  readonly $ref?: string;
}
interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly schema?: Schema;
}
type Content = Readonly<Record<string, { readonly schema?: Schema }>>;
interface Operation {
  readonly operationId: string;
  readonly summary?: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Content };
  readonly responses: Readonly<Record<string, { readonly description?: string; readonly content?: Content }>>;
  readonly security?: readonly Readonly<Record<string, unknown>>[];
}
interface OpenApi {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string };
  readonly components: { readonly securitySchemes: Readonly<Record<string, unknown>> };
  readonly security: readonly Readonly<Record<string, unknown>>[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}
interface Ref {
  readonly $ref: string;
}
interface AsyncApi {
  readonly asyncapi: string;
  readonly info: { readonly title: string; readonly version: string };
  readonly channels: Readonly<
    Record<
      string,
      { readonly address: string; readonly messages: Readonly<Record<string, { readonly payload: Schema }>> }
    >
  >;
  readonly operations: Readonly<
    Record<
      string,
      { readonly action: string; readonly channel: Ref; readonly messages: readonly Ref[]; readonly reply?: Reply }
    >
  >;
}
interface Reply {
  readonly channel: Ref;
  readonly messages: readonly Ref[];
}

const read = async <T>(path: string) => (await (await fetch(chat.url + path)).json()) as T;

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"];

/** What is wrong with a JSON schema (2020-12) and its parts, each with its place. */
function faultsOf(schema: Schema, place: string): string[] {
  const faults: string[] = [];
  if (schema.$ref !== undefined) faults.push("refers, though nothing is shared");
  if ([schema.type ?? []].flat().some((type) => !TYPES.includes(type))) faults.push(`is of type ${schema.type}`);
  const { properties = {}, additionalProperties } = schema;
  for (const name of schema.required ?? []) {
    if (additionalProperties === false && !(name in properties)) faults.push(`requires ${name}, which it forbids`);
  }
  if (schema.type === "array" && schema.items === undefined) faults.push("is a list of anything");
  if (schema.pattern !== undefined && !isPattern(schema.pattern)) faults.push(`has the pattern ${schema.pattern}`);
  const parts: [string, Schema][] = [
    ...Object.entries(properties),
    ...(schema.items ? [["[]", schema.items] as [string, Schema]] : []),
    ...(typeof additionalProperties === "object" ? [["*", additionalProperties] as [string, Schema]] : []),
    ...[...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.allOf ?? [])].map(
      (part, i) => [`|${i}`, part] as [string, Schema],
    ),
  ];
  return [
    ...faults.map((fault) => `${place} ${fault}`),
    ...parts.flatMap(([name, part]) => faultsOf(part, `${place}.${name}`)),
  ];
}

/** JSON schema's patterns are read with the `u` flag. */
function isPattern(pattern: string): boolean {
  try {
    return new RegExp(pattern, "u") instanceof RegExp;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

describe("/openapi.json", () => {
  const operationsOf = ({ paths }: OpenApi) =>
    Object.entries(paths).flatMap(([path, verbs]) =>
      Object.entries(verbs).map(([verb, operation]) => ({ name: `${verb} ${path}`, path, verb, operation })),
    );

  test("names every operation once, and every path in one form", async () => {
    const api = await read<OpenApi>("/openapi.json");
    expect(api.openapi).toMatch(/^3\.1\.\d+$/);
    expect(api.info).toMatchObject({ title: expect.any(String), version: expect.any(String) });
    const operations = operationsOf(api);
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(ids.filter((id, i) => ids.indexOf(id) !== i)).toEqual([]);
    const forms = Object.keys(api.paths).map((path) => path.replaceAll(/\{\w+\}/g, "{}"));
    expect(forms.filter((form, i) => !form.startsWith("/") || forms.indexOf(form) !== i)).toEqual([]);
    expect(operations.filter(({ verb }) => !/^(?:get|put|post|delete|patch)$/.test(verb))).toEqual([]);
    expect(operations.filter(({ operation }) => !operation.summary).map(({ name }) => name)).toEqual([]);
  });

  test("declares what stands in a path, and nothing twice", async () => {
    const faults = operationsOf(await read<OpenApi>("/openapi.json")).flatMap(({ name, path, operation }) => {
      const { parameters = [] } = operation;
      const inPath = Array.from(path.matchAll(/\{(\w+)\}/g), ([, parameter]) => parameter!).sort();
      const declared = parameters.filter((one) => one.in === "path");
      const keys = parameters.map((one) => `${one.in} ${one.name}`);
      const isRight =
        JSON.stringify(declared.map((one) => one.name).sort()) === JSON.stringify(inPath) &&
        declared.every(({ required }) => required === true) &&
        parameters.every((one) => ["path", "query", "header"].includes(one.in) && one.schema) &&
        new Set(keys).size === keys.length;
      return isRight ? [] : [`${name}: ${keys}`];
    });
    expect(faults).toEqual([]);
  });

  test("says what each operation answers, and how it fails", async () => {
    const api = await read<OpenApi>("/openapi.json");
    const known = Object.keys(api.components.securitySchemes);
    const faults = operationsOf(api).filter(({ operation }) => {
      const { responses, security = api.security, requestBody } = operation;
      const statuses = Object.keys(responses);
      return !(
        statuses.some((status) => /^2\d\d$/.test(status)) &&
        statuses.every((status) => /^(?:[1-5]\d\d|default)$/.test(status) && responses[status]!.description) &&
        responses.default?.content?.["application/problem+json"]?.schema &&
        security.every((one) => Object.keys(one).every((scheme) => known.includes(scheme))) &&
        (requestBody === undefined || Object.values(requestBody.content).every(({ schema }) => schema))
      );
    });
    expect(faults.map(({ name }) => name)).toEqual([]);
  });

  test("holds schemas that can be read", async () => {
    const faults = operationsOf(await read<OpenApi>("/openapi.json")).flatMap(({ name, operation }) => {
      const { parameters = [], requestBody, responses } = operation;
      const contents = [requestBody?.content, ...Object.values(responses).map(({ content }) => content)];
      const schemas = [
        ...parameters.map(({ schema }) => schema),
        ...contents.flatMap((content) => Object.values(content ?? {}).map(({ schema }) => schema)),
      ];
      return schemas.flatMap((schema) => (schema ? faultsOf(schema, name) : []));
    });
    expect(faults).toEqual([]);
  });
});

describe("/asyncapi.json", () => {
  test("has channels, operations and messages that find each other", async () => {
    const api = await read<AsyncApi>("/asyncapi.json");
    expect(api.asyncapi).toBe("3.0.0");
    expect(api.info).toMatchObject({ title: expect.any(String), version: expect.any(String) });
    const messages = Object.entries(api.channels).flatMap(([channel, one]) =>
      Object.keys(one.messages).map((message) => `#/channels/${channel}/messages/${message}`),
    );
    const channels = Object.keys(api.channels).map((channel) => `#/channels/${channel}`);
    const used = new Set<string>();
    const faults = Object.entries(api.operations).filter(([, { action, channel, messages: sent, reply }]) => {
      const refs = [...sent, ...(reply?.messages ?? [])].map(({ $ref }) => $ref);
      for (const ref of refs) used.add(ref);
      return !(
        (action === "receive" ? reply !== undefined : action === "send" && reply === undefined) &&
        channels.includes(channel.$ref) &&
        (reply === undefined || channels.includes(reply.channel.$ref)) &&
        sent.length > 0 &&
        refs.every((ref) => ref.startsWith(channel.$ref) && messages.includes(ref))
      );
    });
    expect(faults.map(([name]) => name)).toEqual([]);
    expect(messages.filter((message) => !used.has(message))).toEqual([]);
  });

  test("describes all that is ever told: frames are made where the compiler knows their names", () => {
    const makers = readSources("lib/**/*.ts", "workers/**/*.ts").filter(({ text }) =>
      /\{"jsonrpc":"2\.0","method"/.test(text),
    );
    // Their names are NotificationName and SessionNotification, and NOTIFICATIONS must have each.
    expect(makers.map(({ path }) => path)).toEqual(["lib/im/notify.ts", "workers/gateway/frames.ts"]);
  });

  test("holds schemas that can be read", async () => {
    const { channels } = await read<AsyncApi>("/asyncapi.json");
    const faults = Object.values(channels).flatMap(({ messages }) =>
      Object.entries(messages).flatMap(([name, { payload }]) => faultsOf(payload, name)),
    );
    expect(faults).toEqual([]);
  });
});
