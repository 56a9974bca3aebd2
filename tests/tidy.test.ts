/** What protects the architecture (style.md §6.7): floors, doors, the layer table, and who may write a key or read the environment. */

import { describe, expect, test } from "bun:test";
import * as archive from "../lib/archive/index.ts";
import * as im from "../lib/im/index.ts";
import { LAYERS, mayCall, ROLES, type Role } from "../lib/rpc/index.ts";
import manifest from "../package.json";
import { type Import, importsOf, readSources, type Source, withoutComments } from "./support/sources.ts";

/** Room -> the rooms it may import, and why no others. The ground (`lib/*.ts`) is open to all. */
const FLOORS: Readonly<Record<string, { readonly may: readonly string[]; readonly because: string }>> = {
  "lib/observability": { may: [], because: "observability says what happens, it takes no part in it" },
  "lib/redis": { may: ["lib/observability"], because: "redis stores, it does not decide" },
  "lib/http": { may: ["lib/observability"], because: "http is the edge and knows neither storage nor chat" },
  "lib/archive": { may: ["lib/observability"], because: "archive keeps rows, it knows neither queue nor chat" },
  "lib/mq": {
    may: ["lib/observability", "lib/redis"],
    because: "the queue carries messages of any kind, and no calls",
  },
  "lib/rpc": {
    may: ["lib/observability", "lib/redis", "lib/http"],
    because: "calls and messages are two ways: neither is built on the other",
  },
  "lib/im": {
    may: ["lib/observability", "lib/redis", "lib/mq"],
    because: "the chat's rules stand on storage and queue, and serve any transport",
  },
  "lib/client": { may: [], because: "the client runs where no server part is: it knows the wire and nothing else" },
};

/** Contracts without behaviour: schemas that both ends of a wire share. They may be imported past the door and across floors. */
const CONTRACTS = ["lib/im/protocol.ts", "lib/im/requests.ts", "lib/archive/contract.ts"];

/**
 * Behind no door, for who opens the door must not load it: Bun's child processes, which only the supervisor needs; and the client for
 * calls to the outside, for who calls needs nothing of serving.
 */
const SIDE_DOORS = ["lib/redis/embedded.ts", "lib/http/outbound.ts"];

const lib = readSources("lib/**/*.ts");
const allWorkers = readSources("workers/**/*.ts");
/** The library's examples are programs of their own, no role's code. */
const workers = allWorkers.filter(({ path }) => !path.startsWith("workers/examples/library/"));
const scripts = readSources("scripts/**/*.ts");
const house = [...lib, ...allWorkers, ...scripts];
const lua = readSources("lib/redis/lua/*.lua");

/** `lib/mq/topic.ts` -> `lib/mq`; a file of the ground or of a floor's own folder -> undefined. */
function roomOf(path: string): string | undefined {
  const parts = path.split("/");
  return parts.length > 2 ? parts.slice(0, 2).join("/") : undefined;
}

test("every form of import is seen, and comments are not", () => {
  const text = [
    'import type { A } from "../a.ts";',
    'import {\n  b,\n} from "./b.ts";',
    'export * from "./c.ts";',
    'export { type D } from "./d.ts";',
    'import "./e.ts";',
    'const f = await import("./f.ts");',
    '/* import g from "./g.ts"; */',
    '// import h from "./h.ts";',
    'import { i } from "package";',
  ].join("\n");
  const targets = importsOf({ path: "lib/mq/x.ts", text }).map(({ target }) => target);
  expect(targets).toEqual(["lib/a.ts", ...["b", "c", "d", "e", "f"].map((name) => `lib/mq/${name}.ts`)]);
});

const show = ({ from, target }: Import) => `${from.path} imports ${target}`;
const foreign = (sources: readonly Source[]) =>
  sources.flatMap(importsOf).filter(({ from, target }) => roomOf(from.path) !== roomOf(target));

describe("floors", () => {
  test("imports of lib only go down", () => {
    const climbs = foreign(lib).flatMap((found) => {
      const { from, target } = found;
      if (CONTRACTS.includes(target) || target.endsWith(".lua")) return [];
      const room = roomOf(from.path);
      const other = roomOf(target);
      if (target.startsWith("lib/") && other === undefined) return [];
      if (room === undefined) return [`${show(found)}: the ground knows no room`];
      const floor = FLOORS[room];
      if (!floor) return [`${from.path}: ${room} has no place in FLOORS`];
      return other !== undefined && floor.may.includes(other) ? [] : [`${show(found)}: ${floor.because}`];
    });
    expect(climbs).toEqual([]);
  });

  test("workers never import each other, nor scripts; only the unit loads them", () => {
    const faults = foreign(workers).filter(({ from, target }) => {
      if (target.startsWith("lib/") || target === "workers/context.ts") return false;
      return !(from.path === "workers/unit.ts" && target.startsWith("workers/"));
    });
    expect(faults.map(show)).toEqual([]);
  });

  test("nothing imports tests", () => {
    const faults = foreign(house).filter(({ target }) => target.startsWith("tests/"));
    expect(faults.map(show)).toEqual([]);
  });

  test("what package.json runs needs no package before set-up", () => {
    const entries = Object.values(manifest.scripts).map((command) => command.split(" ").at(-1)!);
    const faults = entries.flatMap((entry) => {
      const [source] = readSources(entry);
      const packages = Array.from(withoutComments(source!.text).matchAll(/\bfrom "([^"]+)"/g), ([, name]) => name!);
      return packages.filter((name) => !/^node:|^\.\/setup\.ts$/.test(name)).map((name) => `${entry} imports ${name}`);
    });
    expect(faults).toEqual([]);
    expect(importsOf(readSources("scripts/setup.ts")[0]!).map(({ target }) => target)).toEqual(["package.json"]);
  });

  test("the transports of the edge stay out of the chat: only the gateway serves HTTP to the public", () => {
    const faults = foreign(workers).filter(
      ({ from, target }) =>
        target.startsWith("lib/http/") && !SIDE_DOORS.includes(target) && !from.path.startsWith("workers/gateway/"),
    );
    expect(faults.map(show)).toEqual([]);
  });
});

test("doors: another room's files are reached through its index.ts", () => {
  const faults = foreign(house).filter(({ from, target }) => {
    const room = roomOf(target);
    if (room === undefined || !room.startsWith("lib/")) return false;
    if (target === `${room}/index.ts` || CONTRACTS.includes(target) || SIDE_DOORS.includes(target)) return false;
    return !(target.startsWith("lib/redis/lua/") && from.path.startsWith("lib/"));
  });
  expect(faults.map(show)).toEqual([]);
});

describe("the layer table", () => {
  const doors: Record<string, unknown> = { ...im, ...archive };
  const contracts = Object.entries(doors).flatMap(([name, value]) =>
    isContract(value) ? [{ name, service: value.service }] : [],
  );
  const topics = Object.entries(doors).flatMap(([name, value]) =>
    isTopic(value) ? [{ name, topic: value.name }] : [],
  );

  /** Role -> the files that only it runs. Examples are a file each; what they share is judged with each of them. */
  function filesOf(role: Role): readonly Source[] {
    const folder = workers.filter(({ path }) => path.startsWith(`workers/${role}/`));
    if (folder.length > 0) return folder;
    const shared = workers.filter(({ path }) => /^workers\/examples\/(?!orders|trades|ads)/.test(path));
    const own = workers.filter(({ path }) => path === `workers/examples/${role}.ts`);
    return own.length > 0 ? [...own, ...shared] : [];
  }
  const mentions = (sources: readonly Source[], name: string) =>
    sources.filter(({ text }) => new RegExp(`\\b${name}\\b`).test(withoutComments(text)));

  test("sees contracts, topics and the code of every role of this build", () => {
    expect(contracts.map(({ service }) => service).sort()).toEqual(["archive", "logic"]);
    expect(topics.map(({ topic }) => topic)).toContain("im.events");
    const built = ROLES.filter((role) => filesOf(role).length > 0);
    expect(built).toEqual([
      "gateway",
      "logic",
      "extlogic",
      "pusher",
      "scheduler",
      "archive",
      "orders",
      "trades",
      "ads",
    ]);
  });

  test("a role uses the contracts of services that it serves or may call, and no others", () => {
    const faults = ROLES.flatMap((role) =>
      contracts
        .filter(({ service }) => service !== role && !mayCall(role, service))
        .flatMap(({ name, service }) =>
          mentions(filesOf(role), name).map(({ path }) => `${path}: ${role} may not call ${service}`),
        ),
    );
    expect(faults).toEqual([]);
  });

  test("a role uses the topics that it may publish to or consume, and no others", () => {
    const faults = ROLES.flatMap((role) => {
      const allowed = new Set([...LAYERS[role].publishes, ...Object.keys(LAYERS[role].consumes)]);
      return topics
        .filter(({ topic }) => !allowed.has(topic))
        .flatMap(({ name, topic }) =>
          mentions(filesOf(role), name).map(({ path }) => `${path}: ${role} has nothing to do with ${topic}`),
        );
    });
    expect(faults).toEqual([]);
  });

  test("groups are literals that the table knows", () => {
    const known = new Set(ROLES.flatMap((role) => Object.values(LAYERS[role].consumes).flat()));
    const used = workers.flatMap(({ path, text }) =>
      Array.from(withoutComments(text).matchAll(/\bgroup: "([^"]+)"/g), ([, group]) => ({ path, group: group! })),
    );
    expect(used.length).toBeGreaterThan(0);
    expect(used.filter(({ group }) => !known.has(group))).toEqual([]);
  });
});

function isContract(value: unknown): value is { service: string } {
  return typeof value === "object" && value !== null && "service" in value && "methods" in value;
}

function isTopic(value: unknown): value is { name: string } {
  if (typeof value !== "object" || value === null || !("name" in value) || !("schema" in value)) return false;
  return typeof value.name === "string" && value.name.startsWith("im.");
}

test("the environment is read in lib/config.ts only", () => {
  // Set-up runs before any package is there, and lib/config.ts needs one.
  const allowed = ["lib/config.ts", "scripts/setup.ts"];
  const readers = house.filter(({ text }) =>
    /process\.env\b|Bun\.env\b|import\.meta\.env\b/.test(withoutComments(text)),
  );
  expect(readers.map(({ path }) => path).filter((path) => !allowed.includes(path))).toEqual([]);
});

describe("keys", () => {
  /** The yardstick is the reference commit with its own keys on a server of its own. */
  const writers = house.filter(
    ({ path }) => path !== "lib/redis/keys.ts" && !path.startsWith("scripts/bench/yardstick"),
  );
  const KEY_PATTERN =
    /[`"'][^`"'\n]*(?:\}:\{|:(?:conv|topic|user|sent):|(?<!\$)\{(?:installation|registry|gateway:|routes|members:))/;

  test("are written in lib/redis/keys.ts only", () => {
    const faults = writers.filter(({ text }) => KEY_PATTERN.test(withoutComments(text)));
    expect(faults.map(({ path }) => path)).toEqual([]);
  });

  test("the pattern knows a key when it sees one", () => {
    const [keys] = readSources("lib/redis/keys.ts");
    expect(KEY_PATTERN.test(withoutComments(keys!.text))).toBe(true);
  });
});

describe("lua", () => {
  const isFragment = ({ text }: Source) => /^-- Fragment: /m.test(text);
  const owners = (path: string) => lib.flatMap(importsOf).filter(({ target }) => target === path);

  test("every script has one owner; a fragment has at least one", () => {
    const faults = lua.filter((script) => {
      const count = owners(script.path).length;
      return isFragment(script) ? count === 0 : count !== 1;
    });
    expect(faults.map(({ path }) => `${path} is imported by ${owners(path).length} files`)).toEqual([]);
  });

  test("a script belongs to the room that its name begins with", () => {
    const faults = lua.filter((script) => {
      const room = script.path.split("/").at(-1)!.split("-")[0];
      return !isFragment(script) && owners(script.path).some(({ from }) => roomOf(from.path) !== `lib/${room}`);
    });
    expect(faults.map(({ path }) => path)).toEqual([]);
  });

  test("headers say what, how atomic, and what it returns", () => {
    const faults = lua.filter((script) => {
      const [shebang, ...lines] = script.text.split("\n");
      const header = lines.slice(
        0,
        lines.findIndex((line) => !line.startsWith("--")),
      );
      if (!/^#!lua( flags=[a-z-]+(,[a-z-]+)*)?$/.test(shebang!)) return true;
      if (isFragment(script)) return header.length === 0;
      return header.length < 4 || !header.includes("--") || !header.some((line) => /^-- Returns? /.test(line));
    });
    expect(faults.map(({ path }) => path)).toEqual([]);
  });

  test("keys and arguments are taken from the first lines, in order, under one name each", () => {
    const faults = lua
      .filter((script) => !isFragment(script))
      .filter(({ text }) => {
        const places = Array.from(text.matchAll(/^local \w+ = (?:tonumber\()?(KEYS|ARGV)\[(\d+)\]/gm), (match) => ({
          kind: match[1]!,
          index: Number(match[2]),
        }));
        const inOrder = (kind: string) =>
          places.filter((place) => place.kind === kind).every((place, i) => place.index === i + 1);
        return !inOrder("KEYS") || !inOrder("ARGV") || places.length === 0;
      });
    expect(faults.map(({ path }) => path)).toEqual([]);
  });

  test("a script that only reads says so, and no other does", () => {
    const WRITE =
      /redis\.call\(\s*'(?:X(?:ADD|DEL|TRIM|ACK|CLAIM|AUTOCLAIM|SETID|GROUP|READGROUP)|H(?:SET|SETNX|DEL|INCRBY)|SET|DEL|UNLINK|INCR|INCRBY|P?EXPIRE|Z(?:ADD|REM\w*)|S(?:ADD|REM)|R?PUSH|L?PUSH)'/;
    const faults = lua.filter((script) => {
      if (isFragment(script)) return false;
      const isReadOnly = /flags=\S*no-writes/.test(script.text.split("\n", 1)[0]!);
      const fragments = lua.filter(isFragment).filter(({ text }) => {
        const names = Array.from(text.matchAll(/^local function (\w+)/gm), ([, name]) => name!);
        return names.some((name) => script.text.includes(`${name}(`)) && WRITE.test(text);
      });
      return isReadOnly === (WRITE.test(script.text) || fragments.length > 0);
    });
    expect(faults.map(({ path }) => path)).toEqual([]);
  });
});
