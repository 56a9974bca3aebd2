/** Service keys over HTTP: shown once, kept as a digest, revoked everywhere within seconds. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { eventually } from "../support/eventually.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

let services: TestServices;
beforeAll(async () => {
  services = await openTestServices("service-keys", { gateways: 2 });
});
afterAll(() => services[Symbol.asyncDispose]());

const create = (body: object, authorization?: string) =>
  services.call("POST", "/v1/service-keys", body, authorization === undefined ? {} : { authorization });

test("a key is shown once, works on every gateway, and ends soon after it is revoked", async () => {
  const created = await create({ id: "shop", scopes: ["admin", "chat", "admin"] });
  expect(created.status).toBe(201);
  expect(created.body).toEqual({
    id: "shop",
    key: expect.stringMatching(/^sk_shop_[\w-]{43}$/),
    scopes: ["admin", "chat"],
  });
  const authorization = `Bearer ${created.body.key}`;
  const list = () => services.call("GET", "/v1/service-keys", undefined, { authorization, gateway: 1 });
  const listed = await list();
  expect(listed.status).toBe(200);
  expect(listed.body.keys).toContainEqual({ id: "shop", scopes: ["admin", "chat"], created: expect.any(Number) });
  expect(JSON.stringify(listed.body)).not.toContain(created.body.key);

  const { commands } = services.store.redis;
  const stored = await commands.hget(services.store.keys.serviceKeys(), "shop");
  expect(stored).not.toContain(created.body.key.slice("sk_shop_".length));

  expect((await services.call("DELETE", "/v1/service-keys/shop")).status).toBe(204);
  await eventually(async () => expect((await list()).status).toBe(401));
  expect((await services.call("DELETE", "/v1/service-keys/shop")).status).toBe(404);
});

test("sockets that a service opened close soon after its key is revoked, and no others", async () => {
  const { body } = await create({ id: "bot", scopes: ["chat"] });
  const { chat } = services;
  const dial = (key: string, user: string, gateway: number) =>
    chat.dial(chat.gateways[gateway], { authorization: `Bearer ${key}`, "skein-user": user });
  using first = await dial(body.key, "ada", 0);
  using second = await dial(body.key, "bob", 1);
  using own = await dial(chat.serviceKey, "ada", 0);
  using user = await chat.connect("ada");
  for (const client of [first, second, own]) await client.next("session.ready");
  expect((await services.call("DELETE", "/v1/service-keys/bot")).status).toBe(204);
  // Another key of the same id does not keep them.
  expect((await create({ id: "bot", scopes: ["chat"] })).status).toBe(201);
  for (const client of [first, second]) expect((await client.closed).code).toBe(4501);
  for (const client of [own, user]) expect(await client.request("session.ping")).toBeDefined();
});

test("a key without an id gets one, and an id that is taken is refused", async () => {
  const { body } = await create({ scopes: ["chat"] });
  expect(body.id).toMatch(/^[A-Za-z0-9]{1,32}$/);
  expect((await create({ id: body.id, scopes: ["chat"] })).body.code).toBe("CONFLICT");
  const bootstrapId = services.chat.serviceKey.split("_")[1]!;
  expect((await create({ id: bootstrapId, scopes: ["chat"] })).body.code).toBe("CONFLICT");
});

test("a key may do what its scopes say: chat for users, and no more", async () => {
  const authorization = await services.keyWith("chat");
  const asAda = { authorization, headers: { "skein-user": "ada" } };
  expect((await services.call("GET", "/v1/conversations", undefined, asAda)).status).toBe(200);
  expect((await services.call("GET", "/v1/service-keys", undefined, { authorization })).body.code).toBe("FORBIDDEN");
  const other = await services.keyWith("admin");
  const refused = await services.call("GET", "/v1/conversations", undefined, { ...asAda, authorization: other });
  expect(refused.body.code).toBe("FORBIDDEN");
});

const scopes = ["chat"];
test.each<[string, object, string]>([
  ["no scopes", {}, "scopes"],
  ["an empty list", { scopes: [] }, "scopes"],
  ["text", { scopes: "chat" }, "scopes"],
  ["101 scopes", { scopes: Array.from({ length: 101 }, (_, i) => `publish:t${i}`) }, "scopes"],
  ["an unknown scope", { scopes: ["chat", "root"] }, "scopes.1"],
  ["a scope of no topic", { scopes: ["publish:"] }, "scopes.0"],
  ["a scope of a pattern", { scopes: ["publish:or*"] }, "scopes.0"],
  ["a scope of a topic with a colon", { scopes: ["consume:a:b"] }, "scopes.0"],
  ["a scope that is an object", { scopes: [{ $ne: "" }] }, "scopes.0"],
  ["an id with an underscore", { id: "a_b", scopes }, "id"],
  ["an id of 33 characters", { id: "a".repeat(33), scopes }, "id"],
  ["an empty id", { id: "", scopes }, "id"],
  ["an id that is a number", { id: 7, scopes }, "id"],
  ["an unknown field", { scopes, key: "sk_mine_0123" }, "key"],
])("a key with %s is refused by name", async (_, body, path) => {
  const refused = await create(body);
  expect([refused.status, refused.body.code, refused.body.issues[0].path]).toEqual([400, "INVALID", path]);
});

test("garbage in place of a key is 401, and the answer does not repeat it", async () => {
  const { body } = await create({ id: "real", scopes: ["admin"] });
  const real: string = body.key;
  const garbage = [
    "sk_",
    "sk_real_",
    "sk_real_short",
    `sk_other_${"a".repeat(43)}`,
    `sk_real_${"a".repeat(43)}`,
    real.slice(0, -1),
    `${real}a`,
    real.toUpperCase(),
    real.replace("sk_real", "sk_root"),
    `sk___proto___${"a".repeat(43)}`,
    `sk_constructor_${"a".repeat(43)}`,
    `sk_real_${"a".repeat(100_000)}`.slice(0, 8_000),
    "sk_real_'; DROP TABLE keys; --",
  ];
  for (const key of garbage) {
    const refused = await services.call("GET", "/v1/service-keys", undefined, { authorization: `Bearer ${key}` });
    expect([key.slice(0, 40), refused.status, refused.body.code]).toEqual([key.slice(0, 40), 401, "UNAUTHENTICATED"]);
    if (key.length > 20) expect(JSON.stringify(refused.body)).not.toContain(key);
  }
});

test("keys are bounded", async () => {
  const { keys, redis } = services.store;
  const fill = Object.fromEntries(
    Array.from({ length: 1_000 }, (_, i) => [`f${i}`, JSON.stringify({ digest: "", scopes: ["chat"], created: 1 })]),
  );
  await redis.commands.hset(keys.serviceKeys(), fill);
  const refused = await create({ id: "onemore", scopes: ["chat"] });
  expect(refused.body.issues[0].path).toBe("id");
  expect(await redis.commands.hexists(keys.serviceKeys(), "onemore")).toBe(0);
  await redis.commands.hdel(keys.serviceKeys(), ...Object.keys(fill));
});
