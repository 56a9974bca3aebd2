/** Push providers against local servers that speak their protocol: what is sent, and what each answer means. */

import { afterAll, describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { importSPKI, jwtVerify } from "jose";
import webPush from "web-push";
import { systemClock } from "../../lib/clock.ts";
import { createOutbound } from "../../lib/http/outbound.ts";
import type { PushDevices, RegisterPushParams } from "../../lib/im/index.ts";
import { registerPush } from "../../workers/logic/push-registration.ts";
import { type Apns, createApns } from "../../workers/pusher/apns.ts";
import { createFcm } from "../../workers/pusher/fcm.ts";
import type { Notification, PushOutcome } from "../../workers/pusher/provider.ts";
import { createProviders } from "../../workers/pusher/providers.ts";
import { createWebPush } from "../../workers/pusher/web-push.ts";
import { createPushWebhook } from "../../workers/pusher/webhook.ts";
import { type AppleAnswer, openApple } from "../support/apple.ts";
import { makeBrowser } from "../support/browser.ts";
import { eventually } from "../support/eventually.ts";
import { createFakeClock } from "../support/fake-clock.ts";
import { temporaryFolder } from "../support/folder.ts";
import { refusal } from "../support/refusal.ts";

const never = new AbortController().signal;
const outbound = createOutbound({ allowPrivate: true });
const closers: (() => unknown)[] = [() => outbound.close()];
afterAll(async () => {
  for (const close of closers) await close();
});

const notification: Notification = {
  id: "n1",
  conversation: "team",
  seq: 7,
  title: "Team",
  text: "order #4711 has shipped ✓",
  unread: 3,
  expiresAt: Date.now() + 3_600_000,
};

interface Seen {
  readonly path: string;
  readonly headers: Headers;
  readonly body: Buffer;
}

type LateResponse = Response | Promise<Response>;

/** A server that answers with the statuses given, in turn, and keeps what it was sent. */
function answering(...answers: readonly LateResponse[]) {
  const seen: Seen[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const body = Buffer.from(await request.arrayBuffer());
      seen.push({ path: new URL(request.url).pathname, headers: request.headers, body });
      return (await answers[Math.min(seen.length, answers.length) - 1]!).clone() as Response;
    },
  });
  closers.push(() => server.stop(true));
  return { seen, url: `http://127.0.0.1:${server.port}` };
}

const answer = (status: number, headers: Record<string, string> = {}, body = "") =>
  new Response(body, { status, headers });

describe("Web Push", () => {
  const vapid = { subject: "mailto:ops@example.com", ...webPush.generateVAPIDKeys() };
  const provider = createWebPush({ outbound, vapid, clock: systemClock, allowAnyHost: true });

  test("the browser decrypts what was said, and the push service is told how long and for which topic", async () => {
    const server = answering(answer(201));
    const browser = makeBrowser(`${server.url}/push/abc`);
    expect(await provider.send(browser.subscription, notification, never)).toEqual({ kind: "sent" });
    const [{ headers, body, path }] = server.seen as [Seen];
    expect(path).toBe("/push/abc");
    const { id, conversation, seq, title, text, unread } = notification;
    expect(JSON.parse(browser.decrypt(body))).toEqual({ id, conversation, seq, title, text, unread });
    expect(headers.get("content-encoding")).toBe("aes128gcm");
    expect(Number(headers.get("ttl"))).toBeWithin(3_500, 3_601);
    expect(headers.get("topic")).toMatch(/^[\w-]{32}$/);
    expect(headers.get("authorization")).toMatch(/^vapid t=ey[\w.-]+, k=[\w-]+$/);
  });

  test.each<[string, Response, PushOutcome]>([
    ["201", answer(201), { kind: "sent" }],
    ["410", answer(410), { kind: "gone" }],
    ["404", answer(404), { kind: "gone" }],
    ["429 with Retry-After", answer(429, { "retry-after": "7" }), { kind: "later", afterMs: 7_000 }],
    ["503", answer(503), { kind: "later", afterMs: undefined }],
    ["403", answer(403), { kind: "refused", reason: "the push service answered 403" }],
    [
      "a redirect",
      answer(302, { location: "http://127.0.0.1:1/" }),
      { kind: "refused", reason: "the push service answered 302" },
    ],
  ])("%s means", async (_, response, outcome) => {
    const server = answering(response);
    expect(await provider.send(makeBrowser(`${server.url}/p`).subscription, notification, never)).toEqual(outcome);
    expect(server.seen).toHaveLength(1);
  });

  test("nobody listening is for later, broken keys are gone, a text too long is refused", async () => {
    const { subscription } = makeBrowser("http://127.0.0.1:9/p");
    expect(await provider.send(subscription, notification, never)).toEqual({ kind: "later", afterMs: undefined });
    const broken = { ...subscription, keys: { p256dh: "AAAA", auth: "AAAA" } };
    expect(await provider.send(broken, notification, never)).toEqual({ kind: "gone" });
    const long = { ...notification, text: "x".repeat(4_000) };
    expect(await provider.send(subscription, long, never)).toMatchObject({ kind: "refused" });
  });

  test("only push services are called, unless the operator opens it", async () => {
    const strict = createWebPush({ outbound, vapid, clock: systemClock, allowAnyHost: false });
    for (const endpoint of [
      "https://evil.example/p",
      "https://fcm.googleapis.com.evil.example/p",
      "https://xfcm.googleapis.com/p",
    ]) {
      expect(await strict.send(makeBrowser(endpoint).subscription, notification, never)).toMatchObject({
        kind: "refused",
      });
    }
  });
});

describe("webhook", () => {
  const provider = createPushWebhook({ outbound, clock: systemClock });

  test("the receiver gets who, where and what, under one id however often it is sent", async () => {
    const server = answering(answer(503), answer(204));
    const address = { url: `${server.url}/push`, user: "ann", device: "phone", secret: "whsec_c2VjcmV0" };
    expect(await provider.send(address, notification, never)).toEqual({ kind: "later", afterMs: undefined });
    expect(await provider.send(address, notification, never)).toEqual({ kind: "sent" });
    expect(server.seen.map(({ headers }) => headers.get("webhook-id"))).toEqual(["n1.phone", "n1.phone"]);
    expect(JSON.parse(server.seen[1]!.body.toString())).toMatchObject({
      type: "im.push",
      user: "ann",
      device: "phone",
      seq: 7,
    });
    expect(server.seen[1]!.headers.get("webhook-signature")).toMatch(/^v1,/);
  });

  test("410 takes the device away, 429 waits as told", async () => {
    const server = answering(answer(410), answer(429, { "retry-after": "3" }));
    const address = { url: `${server.url}/push`, user: "ann", device: "phone", secret: "whsec_c2VjcmV0" };
    expect(await provider.send(address, notification, never)).toEqual({ kind: "gone" });
    expect(await provider.send(address, notification, never)).toEqual({ kind: "later", afterMs: 3_000 });
  });
});

describe("APNs", () => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const pem = { type: "pkcs8", format: "pem" } as const;

  async function apple(...answers: readonly AppleAnswer[]) {
    const server = await openApple(...answers);
    const clock = createFakeClock(Date.now());
    const apns: Apns = createApns({
      ...{ origin: server.origin, teamId: "TEAM", keyId: "KEY", topic: "com.example.chat", clock },
      privateKey: privateKey.export(pem).toString(),
    });
    closers.push(() => {
      apns.close();
      server.close();
    });
    return { apns, seen: server.seen, clock };
  }

  test("a notification carries a token that Apple can check, the topic, the collapse id and the alert", async () => {
    const { apns, seen } = await apple([200]);
    expect(await apns.send({ token: "abc123" }, notification, never)).toEqual({ kind: "sent" });
    const [{ headers, body }] = seen as [{ headers: Record<string, string>; body: string }];
    expect(headers).toMatchObject({
      ...{ ":path": "/3/device/abc123", "apns-topic": "com.example.chat", "apns-push-type": "alert" },
      "apns-collapse-id": "team",
    });
    expect(JSON.parse(body).aps).toEqual({
      ...{ alert: { title: "Team", body: notification.text }, badge: 3, "thread-id": "team" },
    });
    const key = await importSPKI(publicKey.export({ type: "spki", format: "pem" }).toString(), "ES256");
    const { payload, protectedHeader } = await jwtVerify(headers.authorization!.slice("bearer ".length), key);
    expect([payload.iss, protectedHeader.kid]).toEqual(["TEAM", "KEY"]);
  });

  test.each<[number, string | undefined, PushOutcome]>([
    [410, "Unregistered", { kind: "gone" }],
    [400, "BadDeviceToken", { kind: "gone" }],
    [429, "TooManyRequests", { kind: "later", afterMs: undefined }],
    [503, "ServiceUnavailable", { kind: "later", afterMs: undefined }],
    [403, "ExpiredProviderToken", { kind: "expired" }],
    [400, "DeviceTokenNotForTopic", { kind: "refused", reason: "APNs answered 400 DeviceTokenNotForTopic" }],
    [413, "PayloadTooLarge", { kind: "refused", reason: "APNs answered 413 PayloadTooLarge" }],
    [500, undefined, { kind: "later", afterMs: undefined }],
  ])("%d %s means", async (status, reason, outcome) => {
    const { apns } = await apple(reason === undefined ? [status] : [status, reason]);
    expect(await apns.send({ token: "a" }, notification, never)).toEqual(outcome);
  });

  test("a token is made again when Apple finds it too old, and else every 40 minutes", async () => {
    const { apns, seen, clock } = await apple([200], [403, "ExpiredProviderToken"], [200], [200], [200]);
    const outcomes: string[] = [];
    for (let i = 0; i < 4; i++) {
      outcomes.push((await apns.send({ token: "a" }, notification, never)).kind);
      await clock.advance(1_000);
    }
    await clock.advance(41 * 60_000);
    await apns.send({ token: "a" }, notification, never);
    expect(outcomes).toEqual(["sent", "expired", "sent", "sent"]);
    const tokens = seen.map(({ headers }) => headers.authorization);
    expect([
      tokens[0] === tokens[1],
      tokens[1] === tokens[2],
      tokens[2] === tokens[3],
      tokens[3] === tokens[4],
    ]).toEqual([...[true, false, true, false]]);
  });

  test("a server that is away is for later, and after a while of it left alone", async () => {
    const apns = createApns({
      ...{ origin: "http://127.0.0.1:9", teamId: "T", keyId: "K", topic: "t", clock: systemClock },
      privateKey: privateKey.export(pem).toString(),
    });
    for (let i = 0; i < 5; i++) {
      expect(await apns.send({ token: "a" }, notification, never)).toEqual({ kind: "later", afterMs: undefined });
    }
    // For a second at first: who comes later is the one that tries, in vain, and doubles it.
    await eventually(async () =>
      expect(await apns.send({ token: "a" }, notification, never)).toEqual({
        kind: "later",
        afterMs: expect.any(Number) as number,
      }),
    );
    apns.close();
  });
});

describe("FCM", () => {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2_048 });
  const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const granted = () => answer(200, {}, JSON.stringify({ access_token: "ya29.token", expires_in: 3_600 }));

  function google(token: readonly LateResponse[], ...answers: readonly LateResponse[]) {
    const tokens = answering(...token);
    const messages = answering(...answers);
    const account = {
      ...{ project_id: "chat", client_email: "push@chat.iam", private_key: key },
      token_uri: `${tokens.url}/token`,
    };
    return { tokens, messages, fcm: createFcm({ account, origin: messages.url, outbound, clock: systemClock }) };
  }
  const address = { token: "device-1" };
  const fault = (status: number, errorCode: string) =>
    answer(status, {}, JSON.stringify({ error: { status: "X", details: [{ "@type": "e", errorCode }] } }));

  test("one token, by a signed assertion, serves all messages at once", async () => {
    const { fcm, tokens, messages } = google([granted()], answer(200));
    const outcomes = await Promise.all(Array.from({ length: 5 }, () => fcm.send(address, notification, never)));
    expect(outcomes.map(({ kind }) => kind)).toEqual(Array(5).fill("sent"));
    expect(tokens.seen).toHaveLength(1);
    const assertion = new URLSearchParams(tokens.seen[0]!.body.toString()).get("assertion")!;
    const spki = await importSPKI(publicKey.export({ type: "spki", format: "pem" }).toString(), "RS256");
    expect((await jwtVerify(assertion, spki)).payload).toMatchObject({ iss: "push@chat.iam" });
    const [{ path, headers, body }] = messages.seen as [Seen];
    expect([path, headers.get("authorization")]).toEqual(["/v1/projects/chat/messages:send", "Bearer ya29.token"]);
    expect(JSON.parse(body.toString()).message).toMatchObject({
      ...{ token: "device-1", notification: { title: "Team", body: notification.text } },
      ...{ data: { seq: "7" }, android: { collapse_key: "team" } },
    });
  });

  test.each<[string, Response, PushOutcome]>([
    ["unregistered", fault(404, "UNREGISTERED"), { kind: "gone" }],
    ["another sender's device", fault(403, "SENDER_ID_MISMATCH"), { kind: "gone" }],
    ["quota", answer(429, { "retry-after": "60" }), { kind: "later", afterMs: 60_000 }],
    ["unavailable", fault(503, "UNAVAILABLE"), { kind: "later", afterMs: undefined }],
    ["our fault", fault(400, "INVALID_ARGUMENT"), { kind: "refused", reason: "FCM answered 400 INVALID_ARGUMENT" }],
    [
      "no such project",
      answer(404, {}, '{"error":{"status":"NOT_FOUND"}}'),
      { kind: "refused", reason: "FCM answered 404 NOT_FOUND" },
    ],
    ["not JSON", answer(400, {}, "<html>"), { kind: "refused", reason: "FCM answered 400" }],
  ])("%s means", async (_, response, outcome) => {
    const { fcm } = google([granted()], response);
    expect(await fcm.send(address, notification, never)).toEqual(outcome);
  });

  test("a token that was called back is asked for anew; a token endpoint that says no is told as it is", async () => {
    const { fcm, tokens } = google([granted()], answer(401), answer(200));
    expect(await fcm.send(address, notification, never)).toEqual({ kind: "expired" });
    expect(await fcm.send(address, notification, never)).toEqual({ kind: "sent" });
    expect(tokens.seen).toHaveLength(2);
    const refused = google([answer(400, {}, '{"error":"invalid_grant"}')], answer(200));
    expect(await refused.fcm.send(address, notification, never)).toEqual({
      ...{ kind: "refused", reason: "the token endpoint answered 400" },
    });
    expect(refused.messages.seen).toHaveLength(0);
    const away = google([answer(503, { "retry-after": "2" })], answer(200));
    expect(await away.fcm.send(address, notification, never)).toEqual({ kind: "later", afterMs: 2_000 });
  });

  test("a late word about an old token does not end the new one", async () => {
    const late = Promise.withResolvers<Response>();
    const { fcm, tokens, messages } = google([granted()], late.promise, answer(401), answer(200));
    const slow = fcm.send(address, notification, never);
    await eventually(() => expect(messages.seen).toHaveLength(1));
    expect((await fcm.send(address, notification, never)).kind).toBe("expired");
    expect((await fcm.send(address, notification, never)).kind).toBe("sent");
    late.resolve(answer(401));
    expect((await slow).kind).toBe("expired");
    expect((await fcm.send(address, notification, never)).kind).toBe("sent");
    expect(tokens.seen).toHaveLength(2);
  });

  test("who stops while the token is asked for fails nobody else", async () => {
    const late = Promise.withResolvers<Response>();
    const { fcm, tokens } = google([late.promise], answer(200));
    const stopping = new AbortController();
    const stopped = fcm.send(address, notification, stopping.signal);
    const other = fcm.send(address, notification, never);
    await eventually(() => expect(tokens.seen).toHaveLength(1));
    stopping.abort();
    late.resolve(granted());
    await expect(stopped).rejects.toThrow();
    expect(await other).toEqual({ kind: "sent" });
  });
});

describe("an installation", () => {
  const config = {
    outboundPrivate: false,
    pushContact: "mailto:ops@example.com",
    apns: undefined,
    fcmAccountFile: undefined,
  };
  const secrets = { internalSecret: "of this test", vapidKey: webPush.generateVAPIDKeys().privateKey };

  test("takes addresses of the public internet alone, and of browsers those of their push services", async () => {
    const pushDevices = { register: async () => ({ id: "r1" }) } as unknown as PushDevices;
    const registered = (params: object) =>
      registerPush({ pushDevices, secrets, config }, "ann", { device: "d", ...params } as RegisterPushParams);
    const browser = (endpoint: string) => ({ kind: "webpush", ...makeBrowser(endpoint) });
    expect(await registered(browser("https://fcm.googleapis.com/fcm/send/abc"))).toEqual({});
    const { secret } = await registered({ kind: "webhook", url: "https://push.example.com/hook" });
    expect(secret).toStartWith("whsec_");
    for (const [params, path] of [
      [browser("https://push.example.com/p"), "subscription.endpoint"],
      [browser("http://fcm.googleapis.com/p"), "subscription.endpoint"],
      [{ kind: "webhook", url: "http://push.example.com/" }, "url"],
      [{ kind: "webhook", url: "https://127.0.0.1/" }, "url"],
      [{ kind: "webhook", url: "https://push.example.com:6379/" }, "url"],
      [{ kind: "apns", token: "abc" }, "kind"],
      [{ kind: "fcm", token: "abc" }, "kind"],
    ] as const) {
      expect((await refusal(registered(params))).issues).toMatchObject([{ path }]);
    }
  });

  test("does not start with a key file that is none, and says which setting names it", () => {
    using folder = temporaryFolder("push");
    const parts = { secrets, clock: systemClock, outbound };
    const path = join(folder.path, "account.json");
    const created = () => createProviders({ ...parts, config: { ...config, fcmAccountFile: path } });
    expect(created).toThrow(`SKEIN_FCM_ACCOUNT_FILE: ${path} cannot be read (ENOENT)`);
    writeFileSync(path, "{}");
    expect(created).toThrow(`SKEIN_FCM_ACCOUNT_FILE: ${path} is no service account's file`);
  });
});
