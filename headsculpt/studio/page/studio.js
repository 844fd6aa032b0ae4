// The studio's page: a list of heads, one of them in view, and the forms that give orders to the server.
import {
  Box3, Color, DirectionalLight, GLTFLoader, HemisphereLight, OrbitControls, PerspectiveCamera, Scene, Vector3, WebGLRenderer,
} from "/three.js";

const find = (id) => document.getElementById(id);
const POLL_MS = 1500;
const FEW = 8;  // heads that one sees at a glance

// Names as ARKit has them; what a button asks for.
const FACES = {
  Rest: {},
  Smile: { mouthSmileLeft: 0.9, mouthSmileRight: 0.9, cheekSquintLeft: 0.5, cheekSquintRight: 0.5 },
  Surprise: { jawOpen: 0.5, browInnerUp: 0.9, browOuterUpLeft: 0.8, browOuterUpRight: 0.8, eyeWideLeft: 0.9, eyeWideRight: 0.9 },
  Anger: { browDownLeft: 1, browDownRight: 1, mouthFrownLeft: 0.7, mouthFrownRight: 0.7, noseSneerLeft: 0.5, noseSneerRight: 0.5 },
  Sorrow: { browInnerUp: 1, mouthFrownLeft: 0.9, mouthFrownRight: 0.9, eyeSquintLeft: 0.4, eyeSquintRight: 0.4 },
  Wink: { eyeBlinkLeft: 1, mouthSmileLeft: 0.5 },
};
const VIEWS = { Front: 0, "Three-quarter": 40, Side: 90, Back: 180 };
// Joint, axis of its rotation, words, degrees both ways; +x nods down, +y turns to the head's left.
const JOINTS = [["neck", "y", "Turn", 40], ["neck", "x", "Nod", 25], ["neck", "z", "Tilt", 20]];

const FILES = [
  ["avatar.glb", "With joints and expressions, for Blender, Unity, Unreal, Godot and the web"],
  ["avatar.obj.zip", "Mesh, material and picture, as it rests"],
  ["avatar.ply", "Mesh with colours at its vertices"],
  ["preview.png", "Four views"],
  ["turntable.webp", "All around"],
];

// ---- the view --------------------------------------------------------------------------------------------------
class View {
  constructor(canvas) {
    this.renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.scene = new Scene();
    this.scene.add(new HemisphereLight(new Color(1, 1, 1), new Color(0.55, 0.55, 0.6), 2.2));
    this.camera = new PerspectiveCamera(24, 1, 0.05, 20);
    const key = new DirectionalLight(new Color(1, 1, 1), 1.4);
    key.position.set(0.5, 0.8, 1);
    this.camera.add(key);
    this.scene.add(this.camera);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = true;
    this.head = null;
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.renderer.setAnimationLoop(() => this.draw());
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement.parentElement;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / Math.max(1, height);
    this.camera.updateProjectionMatrix();
  }

  draw() {
    if (this.renderer.domElement.style.visibility === "hidden") return;  // the cores are the sculpture's
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }

  clear() {
    if (!this.head) return;
    this.scene.remove(this.head);
    dispose(this.head);
    this.head = null;
  }

  // Shows a GLB, from where the camera is if one was shown before: an edit is best compared in place. False where
  // another was asked for meanwhile.
  async show(url) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const { scene } = await new GLTFLoader().loadAsync(url);
    if (turn !== this.turn) {
      dispose(scene);
      return false;
    }
    const first = this.head === null;
    this.clear();
    this.head = scene;
    this.scene.add(scene);
    if (first) this.look(20);
    return true;
  }

  look(azimuth) {
    if (!this.head) return;
    const box = new Box3().setFromObject(this.head), middle = box.getCenter(new Vector3()), size = box.getSize(new Vector3());
    // The whole of it in view, also where the window is narrow.
    const reach = 0.58 * Math.max(size.y, size.x / this.camera.aspect) / Math.tan((this.camera.fov / 360) * Math.PI);
    const angle = (azimuth / 180) * Math.PI, distance = reach + size.z / 2;
    this.controls.target.copy(middle);
    this.camera.position.set(Math.sin(angle), 0.08, Math.cos(angle)).multiplyScalar(distance).add(middle);
  }

  parts(test) {
    const found = [];
    this.head?.traverse((part) => test(part) && found.push(part));
    return found;
  }

  get expressions() {
    return Object.keys(this.parts((part) => part.morphTargetDictionary)[0]?.morphTargetDictionary ?? {});
  }

  express(weights) {
    for (const part of this.parts((p) => p.morphTargetDictionary))
      for (const [name, index] of Object.entries(part.morphTargetDictionary)) part.morphTargetInfluences[index] = weights[name] ?? 0;
  }

  turn(joint, axis, degrees) {
    for (const bone of this.parts((p) => p.isBone && p.name === joint)) bone.rotation[axis] = (degrees / 180) * Math.PI;
  }
}

function dispose(head) {
  head.traverse((part) => {
    part.geometry?.dispose();
    part.material?.map?.dispose();
    part.material?.dispose();
    part.skeleton?.dispose();
  });
}

// ---- orders ----------------------------------------------------------------------------------------------------
async function order(path, given) {
  const answer = await fetch(`/api/${path}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function complain(error) {
  if (find("message").textContent === (error?.message ?? "")) return;  // or it would be read out again
  find("message").hidden = !error;
  find("message").textContent = error ? error.message : "";
}

// One order at a time: a double click is one.
let busy = false;
async function attempt(work) {
  if (busy) return;
  busy = true;
  try {
    complain(null);
    await work();
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
  }
}

// ---- the list --------------------------------------------------------------------------------------------------
let view = null;
try {
  view = new View(find("view"));
} catch {  // a remote desktop, a blocked graphics card
  find("view").hidden = true;
  find("flat").hidden = false;
}
let heads = [], chosen = null, shown = null;  // shown: name and picture of what the view holds

const file = (head, name) => `/heads/${encodeURIComponent(head.name)}/${name}?${head.picture}`;

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function words(head) {
  return head.instruction || head.prompt;
}

function said(head) {
  return [head.prompt, head.instruction, ...head.lineage, head.preset, head.state].join(" ").toLowerCase();
}

function timeWords(head) {
  return head.note.match(/[\d:]+ left/)?.[0] ?? head.note;
}

function stateWords(head) {
  if (head.state === "running") return `${Math.round(100 * head.share)} %, ${timeWords(head)}`;
  if (head.state === "finished") return head.lineage.length ? `edit of: ${head.lineage.at(-1)}` : `${head.preset}, seed ${head.seed}`;
  if (head.state === "busy") return "at work in another program";
  return head.state + (head.state === "failed" && head.note ? `: ${head.note}` : "");
}

function listed(head) {
  const picture = element("span", "picture");
  if (head.picture) picture.style.backgroundImage = `url("${file(head, "picture")}")`;
  const said = element("span", "", element("span", "words", words(head)), element("span", "state", stateWords(head)));
  said.lastChild.style.display = "block";
  const button = element("button", "head", picture, said);
  button.type = "button";
  button.title = `${words(head)}\n${stateWords(head)}`;
  button.dataset.key = head.name;
  if (head.name === chosen) button.setAttribute("aria-current", "true");
  button.onclick = () => choose(head.name);
  const item = element("li", `${head.state} ${head.name === chosen ? "chosen" : ""}`, button);
  const begun = head.preset && ["Resume", "resume"];  // or there is no folder to go on in
  const act = { running: ["Stop", "stop"], waiting: ["Stop", "stop"], stopped: begun, failed: begun }[head.state];
  if (act) {
    const button = element("button", "act", act[0]);
    button.type = "button";
    button.dataset.key = `${act[1]} ${head.name}`;
    button.setAttribute("aria-label", `${act[0]}: ${words(head)}`);
    button.onclick = () => attempt(async () => { await order(act[1], { name: head.name }); await poll(); });
    item.append(button);
  }
  return item;
}

let drawn = "", asked = 0, newest = 0;
async function poll() {
  const turn = ++asked, reply = await fetch("/api/heads"), answer = await reply.json();
  if (!reply.ok) throw new Error(answer.error);
  if (turn < newest) return;  // an older answer that came late
  newest = turn;
  const known = heads.some((head) => head.name === chosen);
  heads = answer.heads;
  if (known && !heads.some((head) => head.name === chosen)) chosen = null;  // its folder was deleted
  if (!find("preset").options.length) find("preset").append(...answer.presets.map((name) => new Option(name, name, false, name === "mini")));
  if (chosen === null && heads.length) chosen = (heads.find((head) => head.state === "finished") ?? heads[0]).name;
  find("search").hidden = heads.length <= FEW;
  const wanted = find("search").hidden ? [] : find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const now = JSON.stringify([heads, chosen, wanted]);
  if (now === drawn) return;
  drawn = now;
  const found = heads.filter((head) => wanted.every((word) => said(head).includes(word)));
  const focused = find("heads").contains(document.activeElement) ? document.activeElement.dataset.key : null;
  find("heads").replaceChildren(...found.map(listed));
  if (focused) [...find("heads").querySelectorAll("button")].find((button) => button.dataset.key === focused)?.focus();
  await present();
}

function choose(name) {
  chosen = name;
  drawn = "";  // what failed to load is tried again
  complain(null);
  poll().catch(complain);
}

// ---- the chosen head -------------------------------------------------------------------------------------------
async function present() {
  const head = heads.find((each) => each.name === chosen);
  find("empty").hidden = Boolean(head);
  if (!head) {
    for (const id of ["right", "progress", "strip"]) find(id).hidden = true;
    find("view").style.visibility = "hidden";
    find("title").replaceChildren();
    find("note").textContent = "";
    return;
  }
  const before = head.lineage.map((said) => `${said} → `).join("");
  find("title").replaceChildren(before, element("b", "", words(head)));
  find("progress").hidden = !["running", "stopping"].includes(head.state);
  find("progress").setAttribute("aria-valuenow", Math.round(100 * head.share));
  find("progress").firstElementChild.style.width = `${100 * head.share}%`;
  const done = head.state === "finished";
  find("right").hidden = !done;
  find("view").style.visibility = done ? "visible" : "hidden";
  find("strip").hidden = (done && view !== null) || !head.picture;
  for (const part of find("strip").children) part.style.backgroundImage = head.picture ? `url("${file(head, "picture")}")` : "";
  find("note").textContent = done ? "" : head.state === "running" ? head.note : head.state;
  if (!done) {
    if (head.state === "failed") complain(new Error(head.note));
    return;
  }
  const key = `${head.name} ${head.picture}`;
  if (key === shown) return;
  shown = key;
  links(head);
  for (const id of ["motion", "still", "look"]) find(id).hidden = true;
  if (view === null) return;
  try {
    if (!(await view.show(file(head, "avatar.glb")))) return;
  } catch (error) {
    if (shown !== key) return;
    shown = null;
    view.clear();
    complain(error);
    return;
  }
  find("look").hidden = false;
  controls();
}

function slider(label, low, high, step, changed) {
  const input = element("input");
  Object.assign(input, { type: "range", min: low, max: high, step, value: 0 });
  input.oninput = () => changed(Number(input.value));
  const made = element("label", "", label, input);
  made.set = (value) => (input.value = value);
  return made;
}

function buttons(place, entries, pressed) {
  place.replaceChildren(...Object.entries(entries).map(([name, value]) => {
    const button = element("button", "", name);
    button.type = "button";
    button.onclick = () => pressed(value);
    return button;
  }));
}

function links(head) {
  find("files").replaceChildren(...FILES.map(([name, title]) => {
    const link = element("a", "", name);
    link.title = title;
    Object.assign(link, { href: file(head, name), download: `${head.name}-${name}` });
    return link;
  }));
}

function controls() {
  const names = view.expressions, weights = {}, sliders = {};
  find("motion").hidden = !names.length;
  find("still").hidden = Boolean(names.length);
  for (const name of names)
    sliders[name] = slider(name, 0, 1, 0.01, (value) => { weights[name] = value; view.express(weights); });
  find("expressions").replaceChildren(...Object.values(sliders));
  const joints = JOINTS.map(([joint, axis, label, degrees]) => slider(label, -degrees, degrees, 1, (value) => view.turn(joint, axis, value)));
  find("joints").replaceChildren(...joints);
  buttons(find("faces"), FACES, (face) => {
    for (const name of names) sliders[name].set((weights[name] = face[name] ?? 0));
    view.express(weights);
    if (face === FACES.Rest) {
      joints.forEach((joint) => joint.set(0));
      JOINTS.forEach(([joint, axis]) => view.turn(joint, axis, 0));
    }
  });
  buttons(find("views"), VIEWS, (azimuth) => view.look(azimuth));
}

find("turning").onchange = (event) => (view.controls.autoRotate = event.target.checked);

find("search").oninput = () => poll().catch(complain);

find("generate").onsubmit = (event) => {
  event.preventDefault();
  attempt(async () => {
    const given = { prompt: find("prompt").value, preset: find("preset").value, seed: Number(find("seed").value) };
    chosen = (await order("generate", given)).name;
    await poll();
  });
};

find("edit").onsubmit = (event) => {
  event.preventDefault();
  const source = chosen;
  attempt(async () => {
    const given = { source, instruction: find("instruction").value, strength: Number(find("strength").value) };
    chosen = (await order("edit", given)).name;
    find("instruction").value = "";
    await poll();
  });
};

// Enter sends, as in any box of one sentence.
for (const id of ["prompt", "instruction"])
  find(id).onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.repeat) {
      event.preventDefault();
      find(id).form.requestSubmit();
    }
  };

async function watch() {
  try {
    await poll();
    if (find("message").textContent === LOST) complain(null);
  } catch (error) {
    complain(error instanceof TypeError ? new Error(LOST) : error);  // that is what fetch throws
  }
  setTimeout(watch, POLL_MS);
}
const LOST = "The studio does not answer; is 'headsculpt studio' still running?";
watch();
