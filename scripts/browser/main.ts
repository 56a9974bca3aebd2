/**
 * The app of lib/client/README.md in a real Chromium, twice on one profile as a reload would: it sends, hears the answer, and the second
 * time goes on from the places that it has kept. Against a private Skein. Exits with 1 and what the page said when it does not.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type Kept } from "../../lib/client/index.ts";
import { type PrivateSkein, startSkein } from "../harness.ts";
import { createApi } from "../load/api.ts";
import { layOutPage } from "./page.ts";

/** As the app prints them. */
const HELLO = '"alice: hello"';
const ANSWER = '"bob: hello, alice"';
const WITHIN_MS = 30_000;
const BROWSERS = ["chromium", "chromium-browser", "google-chrome"];

/** Sends what the app prints, and its faults, to us; then what it keeps, twice a second. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>chat</title><script>
const tell = (path, text) => fetch(path, { method: "POST", body: text });
console.log = (...parts) => tell("/said", parts.join(" "));
addEventListener("error", ({ message }) => tell("/said", "error: " + message));
addEventListener("unhandledrejection", ({ reason }) => tell("/said", "error: " + reason));
setInterval(() => tell("/kept", localStorage.getItem("chat-alice") ?? ""), 500);
</script><script type="module" src="/app.js"></script>`;

interface Stage extends AsyncDisposable {
  readonly url: string;
  readonly said: string[];
  kept(): Kept | undefined;
}

const folder = mkdtempSync(join(tmpdir(), "skein-browser-"));
try {
  const binary = BROWSERS.map((name) => Bun.which(name)).find((path) => path !== null);
  if (!binary) throw new Error(`none of ${BROWSERS.join(", ")} is installed`);
  await run(binary);
  console.log("the app of lib/client/README.md works in a browser");
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function run(binary: string): Promise<void> {
  await using stage = await openStage();
  {
    using _ = openBrowser(binary, stage.url);
    await until(stage, "bob's answer", () => stage.said.some((line) => line.endsWith(`${HELLO},${ANSWER}]`)));
    await until(stage, "the places to be kept", () => stage.kept()?.cursors.some(({ seq }) => seq >= 2) === true);
  }
  stage.said.length = 0;
  using _ = openBrowser(binary, stage.url);
  await until(stage, "a third message", () => stage.said.some((line) => line.endsWith(`${HELLO},${ANSWER},${HELLO}]`)));
}

/** The page's own server, a Skein that takes its origin, and bob, who answers once. */
async function openStage(): Promise<Stage> {
  const said: string[] = [];
  let kept = "";
  let script = "";
  let skein: PrivateSkein | undefined;
  const token = async (user: string) => createApi({ url: skein!.url, serviceKey: skein!.serviceKey }).token(user);
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    routes: {
      "/": new Response(PAGE, { headers: { "content-type": "text/html" } }),
      "/app.js": () => new Response(script, { headers: { "content-type": "text/javascript" } }),
      "/chat-token": async () => new Response(await token("alice")),
      "/said": async (request) => new Response(`${said.push(await request.text())}`),
      "/kept": async (request) => {
        kept = await request.text();
        return new Response();
      },
    },
  });
  const url = `http://127.0.0.1:${server.port}`;
  skein = await startSkein({ env: { SKEIN_ORIGINS: url } });
  const socket = `${skein.url.replace("http", "ws")}/v1/ws`;
  const entry = layOutPage(folder, { gateway: socket, tokens: `${url}/chat-token` });
  const { outputs } = await Bun.build({ entrypoints: [entry], target: "browser" });
  script = await outputs[0]!.text();

  const bob = connect({ url: socket, token: await token("bob") });
  const greeted = bob.on("message", ({ message }) => {
    if (message.body.text !== "hello") return;
    greeted();
    void bob.send(message.conversation, "hello, alice");
  });
  await bob.ready();
  return {
    url,
    said,
    kept: () => (kept === "" ? undefined : JSON.parse(kept)),
    async [Symbol.asyncDispose]() {
      bob.close();
      await server.stop(true);
      await skein.stop();
    },
  };
}

function openBrowser(binary: string, url: string): Disposable {
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  const browser = Bun.spawn(
    [binary, ...flags, `--user-data-dir=${join(folder, "profile")}`, "--remote-debugging-port=0", url],
    {
      stdout: "ignore",
      stderr: "ignore",
    },
  );
  return { [Symbol.dispose]: () => browser.kill() };
}

async function until({ said }: Stage, what: string, isTrue: () => boolean): Promise<void> {
  const deadline = performance.now() + WITHIN_MS;
  while (!isTrue()) {
    if (performance.now() > deadline) throw new Error(`no sign of ${what}; the page said:\n${said.join("\n")}`);
    await Bun.sleep(50);
  }
}
