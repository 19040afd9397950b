// A viewer of 3D Gaussian splatting models in one file: WebGL2, no network.
//
// The model is an SPZ file of version 3 in base64 (see gns/exports/spz.py), in its own axes: right, up, back. Cameras come
// in the same. What is drawn is what gns's renderer draws: the same projection, the same limits of a Gaussian's opacity.
"use strict";

const settings = JSON.parse(document.getElementById("settings").textContent);
const canvas = document.getElementById("canvas");
const COLUMNS = 1024; // Gaussians in a row of the textures

// ---- the model ----

async function readModel() {
  const text = document.getElementById("model").textContent.trim();
  const packed = await (await fetch("data:application/octet-stream;base64," + text)).blob();
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const view = new DataView(bytes.buffer);
  const count = view.getUint32(8, true), degree = bytes[12], unit = 2 ** -bytes[13];
  const rest = 3 * ((degree + 1) ** 2 - 1);
  let start = 16;
  const plane = (width) => bytes.subarray(start, (start += count * width));
  const [positions, alphas, colors, scales, rotations, harmonics] = [9, 1, 3, 3, 4, rest].map(plane);

  const rows = Math.max(1, Math.ceil(count / COLUMNS));
  const means = new Float32Array(3 * count);
  const geometry = new Float32Array(12 * COLUMNS * rows); // mean, opacity; the covariance's six entries; two of nothing
  const texels = Math.ceil((3 + rest) / 16);
  const coefficients = new Uint8Array(16 * texels * COLUMNS * rows); // bytes of degree 0, then of the others
  for (let i = 0; i < count; i++) {
    for (let axis = 0; axis < 3; axis++) {
      const at = 9 * i + 3 * axis;
      // The sign of 24 bits: shifted to the top of 32 and back.
      means[3 * i + axis] = (((positions[at] | (positions[at + 1] << 8) | (positions[at + 2] << 16)) << 8) >> 8) * unit;
    }
    geometry.set(means.subarray(3 * i, 3 * i + 3), 12 * i);
    geometry[12 * i + 3] = alphas[i] / 255;
    const deviations = [0, 1, 2].map((axis) => Math.exp(scales[3 * i + axis] / 16 - 10));
    geometry.set(covariance(quaternion(rotations, 4 * i), deviations), 12 * i + 4);
    coefficients.set(colors.subarray(3 * i, 3 * i + 3), 16 * texels * i);
    coefficients.set(harmonics.subarray(rest * i, rest * (i + 1)), 16 * texels * i + 3);
  }
  return { count, degree, rows, means, geometry, texels, coefficients };
}

// x, y, z, w from two bits for the largest, and a sign and nine bits for each of the others.
function quaternion(bytes, at) {
  let word = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
  const largest = word >>> 30, q = [0, 0, 0, 0];
  let squares = 0;
  for (let k = 3; k >= 0; k--) {
    if (k === largest) continue;
    q[k] = ((word & 511) / 511) * Math.SQRT1_2 * (word & 512 ? -1 : 1);
    squares += q[k] * q[k];
    word >>>= 10;
  }
  q[largest] = Math.sqrt(Math.max(0, 1 - squares));
  return q;
}

// R S² Rᵀ as xx, xy, xz, yy, yz, zz.
function covariance([x, y, z, w], deviations) {
  const rotation = [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
  const m = rotation.map((value, index) => value * deviations[index % 3]);
  const entry = (i, j) => m[3 * i] * m[3 * j] + m[3 * i + 1] * m[3 * j + 1] + m[3 * i + 2] * m[3 * j + 2];
  return [entry(0, 0), entry(0, 1), entry(0, 2), entry(1, 1), entry(1, 2), entry(2, 2)];
}

// ---- the order, found in a worker; this function's text is all that the worker has ----

function sorter() {
  let means, near;
  // The Gaussians before the near plane, farthest first: a counting sort by depths of 16 bits.
  const order = ([x, y, z, offset]) => {
    const count = means.length / 3, depths = new Float32Array(count);
    let farthest = near;
    for (let i = 0; i < count; i++) {
      depths[i] = x * means[3 * i] + y * means[3 * i + 1] + z * means[3 * i + 2] + offset;
      if (depths[i] > farthest) farthest = depths[i];
    }
    const bins = 65536, starts = new Uint32Array(bins + 1), scale = (bins - 1) / Math.max(farthest - near, 1e-6);
    const bin = (i) => bins - 1 - Math.floor((depths[i] - near) * scale);
    for (let i = 0; i < count; i++) if (depths[i] > near) starts[bin(i) + 1]++;
    for (let b = 0; b < bins; b++) starts[b + 1] += starts[b];
    const sorted = new Uint32Array(starts[bins]);
    for (let i = 0; i < count; i++) if (depths[i] > near) sorted[starts[bin(i)]++] = i;
    return sorted;
  };
  onmessage = ({ data }) => {
    if (data.means) ({ means, near } = data);
    else {
      const sorted = order(data.plane);
      postMessage({ sorted, number: data.number }, [sorted.buffer]);
    }
  };
}

// ---- drawing ----

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D geometry;
uniform highp usampler2D coefficients;
uniform mat3 toCamera; // columns are those of the world's axes
uniform vec3 center;
uniform vec2 focal, principal, size, limit;
uniform int degree, texels;
in uint which;
out vec2 inEllipse; // in standard deviations
flat out vec4 color;

uint coefficientByte(int i, ivec2 base) {
  uvec4 texel = texelFetch(coefficients, ivec2(base.x + i / 16, base.y), 0);
  return (texel[(i % 16) / 4] >> (8 * (i % 4))) & 255u;
}

vec3 harmonic(int i, ivec2 base) {
  return (vec3(coefficientByte(3 * i, base), coefficientByte(3 * i + 1, base), coefficientByte(3 * i + 2, base)) - 128.0) / 128.0;
}

vec3 radiance(vec3 direction, int column, int row) {
  ivec2 base = ivec2(column * texels, row);
  vec3 dc = vec3(coefficientByte(0, base), coefficientByte(1, base), coefficientByte(2, base));
  vec3 sum = 0.5 + 0.28209479177387814 * (dc / 255.0 - 0.5) / 0.15;
  float x = direction.x, y = direction.y, z = direction.z, xx = x * x, yy = y * y, zz = z * z;
  if (degree > 0) sum += 0.4886025119029199 * (-y * harmonic(1, base) + z * harmonic(2, base) - x * harmonic(3, base));
  if (degree > 1) {
    sum += 1.0925484305920792 * (x * y * harmonic(4, base) - y * z * harmonic(5, base) - x * z * harmonic(7, base))
      + 0.31539156525252005 * (2.0 * zz - xx - yy) * harmonic(6, base) + 0.5462742152960396 * (xx - yy) * harmonic(8, base);
  }
  if (degree > 2) {
    sum += -0.5900435899266435 * (y * (3.0 * xx - yy) * harmonic(9, base) + x * (xx - 3.0 * yy) * harmonic(15, base))
      + 2.890611442640554 * x * y * z * harmonic(10, base) + 1.445305721320277 * z * (xx - yy) * harmonic(14, base)
      - 0.4570457994644658 * (4.0 * zz - xx - yy) * (y * harmonic(11, base) + x * harmonic(13, base))
      + 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * harmonic(12, base);
  }
  return max(sum, 0.0);
}

void main() {
  int column = int(which) % ${COLUMNS}, row = int(which) / ${COLUMNS};
  vec4 place = texelFetch(geometry, ivec2(3 * column, row), 0);
  vec4 c = texelFetch(geometry, ivec2(3 * column + 1, row), 0), d = texelFetch(geometry, ivec2(3 * column + 2, row), 0);
  vec3 seen = toCamera * (place.xyz - center);
  vec2 slope = seen.xy / seen.z, held = clamp(slope, -limit, limit);
  mat3 world = mat3(c.x, c.y, c.z, c.y, c.w, d.x, c.z, d.x, d.y);
  mat3 local = toCamera * world * transpose(toCamera);
  vec3 jx = vec3(focal.x, 0, -focal.x * held.x) / seen.z, jy = vec3(0, focal.y, -focal.y * held.y) / seen.z;
  float a = dot(jx, local * jx) + 0.3, b = dot(jx, local * jy), e = dot(jy, local * jy) + 0.3;

  // Half axes of the ellipse, and how many standard deviations out its opacity falls to 1/255.
  float middle = 0.5 * (a + e), spread = length(vec2(0.5 * (a - e), b));
  float larger = middle + spread, smaller = max((a * e - b * b) / larger, 0.3);
  vec2 axis = abs(b) > 1e-6 * larger ? normalize(vec2(b, larger - a)) : (a >= e ? vec2(1, 0) : vec2(0, 1));
  float reach = sqrt(max(0.0, 2.0 * log(255.0 * place.w)));
  vec2 corner = reach * vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - reach;
  vec2 pixel = focal * slope + principal + corner.x * sqrt(larger) * axis + corner.y * sqrt(smaller) * vec2(-axis.y, axis.x);
  inEllipse = corner;
  color = vec4(radiance(normalize(place.xyz - center), column, row), place.w);
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0, 1);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 inEllipse;
flat in vec4 color;
out vec4 result;
void main() {
  float alpha = min(0.99, color.a * exp(-0.5 * dot(inEllipse, inEllipse)));
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(alpha * color.rgb, alpha);
}`;

const COPY_VERTEX = `#version 300 es
void main() { gl_Position = vec4(4 * (gl_VertexID & 1) - 1, 4 * (gl_VertexID >> 1) - 1, 0, 1); }`;

const COPY_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D picture;
out vec4 result;
void main() { result = vec4(texelFetch(picture, ivec2(gl_FragCoord.xy), 0).rgb, 1); }`;

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return { made, at: (name) => gl.getUniformLocation(made, name), which: gl.getAttribLocation(made, "which") };
}

function texture(gl, unit, internal, width, height, format, type, data) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, data);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  return made;
}

class Renderer {
  constructor(model) {
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true }));
    if (!gl) throw new Error("this browser has no WebGL2");
    if (model.rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("the model has too many Gaussians for this graphics card");
    // In eight bits the rounding of hundreds of layers would show.
    this.fine = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.model = model;
    this.splats = program(gl, VERTEX, FRAGMENT);
    this.copy = program(gl, COPY_VERTEX, COPY_FRAGMENT);
    texture(gl, 0, gl.RGBA32F, 3 * COLUMNS, model.rows, gl.RGBA, gl.FLOAT, model.geometry);
    texture(gl, 1, gl.RGBA32UI, model.texels * COLUMNS, model.rows, gl.RGBA_INTEGER, gl.UNSIGNED_INT, new Uint32Array(model.coefficients.buffer));
    this.order = gl.createBuffer();
    this.drawn = 0;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.enableVertexAttribArray(this.splats.which);
    gl.vertexAttribIPointer(this.splats.which, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(this.splats.which, 1);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  setOrder(sorted) {
    this.gl.bufferData(this.gl.ARRAY_BUFFER, sorted, this.gl.DYNAMIC_DRAW);
    this.drawn = sorted.length;
  }

  resize(width, height) {
    const { gl } = this;
    if (canvas.width === width && canvas.height === height && this.target) return;
    [canvas.width, canvas.height] = [width, height];
    gl.viewport(0, 0, width, height);
    if (this.target) [gl.deleteTexture(this.picture), gl.deleteFramebuffer(this.target)];
    this.target = gl.createFramebuffer();
    this.picture = texture(gl, 2, this.fine ? gl.RGBA16F : gl.RGBA8, width, height, gl.RGBA, this.fine ? gl.HALF_FLOAT : gl.UNSIGNED_BYTE, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.picture, 0);
  }

  draw({ lens, rotation, center }) {
    const { gl, splats, model } = this, { width, height } = canvas;
    // The whole of the photo's view fits into the picture, whatever its shape.
    const zoom = Math.min(width / lens.width, height / lens.height);
    const [fx, fy] = [zoom * lens.fx, zoom * lens.fy];
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.clearColor(...settings.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.useProgram(splats.made);
    gl.uniform1i(splats.at("geometry"), 0);
    gl.uniform1i(splats.at("coefficients"), 1);
    gl.uniformMatrix3fv(splats.at("toCamera"), true, rotation.flat());
    gl.uniform3fv(splats.at("center"), center);
    gl.uniform2f(splats.at("focal"), fx, fy);
    gl.uniform2f(splats.at("principal"), width / 2 + zoom * (lens.cx - lens.width / 2), height / 2 + zoom * (lens.cy - lens.height / 2));
    gl.uniform2f(splats.at("size"), width, height);
    gl.uniform2f(splats.at("limit"), (0.65 * width) / fx, (0.65 * height) / fy);
    gl.uniform1i(splats.at("degree"), model.degree);
    gl.uniform1i(splats.at("texels"), model.texels);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.drawn);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.copy.made);
    gl.uniform1i(this.copy.at("picture"), 2);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// ---- the camera ----

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b, factor = 1) => a.map((value, k) => value + factor * b[k]);

// `v` turned by `angle` about the unit vector `axis` (Rodrigues).
function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), along = dot(axis, v) * (1 - c);
  const cross = [axis[1] * v[2] - axis[2] * v[1], axis[2] * v[0] - axis[0] * v[2], axis[0] * v[1] - axis[1] * v[0]];
  return v.map((value, k) => c * value + s * cross[k] + along * axis[k]);
}

class Orbit {
  constructor() {
    this.index = 0;
    this.show(0);
  }

  // Stand where the camera `index` of the settings stood; rows of its rotation are right, down and forward.
  show(index) {
    const views = settings.cameras;
    this.index = (index + views.length) % views.length;
    const view = views[this.index];
    Object.assign(this, { lens: view, rotation: view.rotation.map((row) => [...row]), center: [...view.center], distance: view.distance });
  }

  // Turn about what is looked at, by radians to the right and down.
  turn(right, down) {
    const target = plus(this.center, this.rotation[2], this.distance);
    let rotation = this.rotation.map((row) => turned(row, settings.up, -right));
    const tilted = rotation.map((row) => turned(row, rotation[0], -down));
    if (Math.abs(dot(tilted[2], settings.up)) < 0.995) rotation = tilted; // not over the pole
    this.rotation = rotation;
    this.center = plus(target, rotation[2], -this.distance);
  }

  // Move across the picture, by pixels of the page.
  move(x, y) {
    const zoom = Math.min(canvas.clientWidth / this.lens.width, canvas.clientHeight / this.lens.height);
    this.center = plus(this.center, this.rotation[0], (-x * this.distance) / (zoom * this.lens.fx));
    this.center = plus(this.center, this.rotation[1], (-y * this.distance) / (zoom * this.lens.fy));
  }

  approach(factor) {
    this.center = plus(this.center, this.rotation[2], this.distance * (1 - factor));
    this.distance *= factor;
  }
}

// ---- what the hand does ----

function listen(orbit, changed) {
  const fingers = new Map(); // by pointer, where it is
  const middle = () => {
    const all = [...fingers.values()], [first, second] = [all[0], all[all.length - 1]];
    return { x: (first.x + second.x) / 2, y: (first.y + second.y) / 2, apart: Math.hypot(first.x - second.x, first.y - second.y) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = middle();
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = middle(), [x, y] = [after.x - before.x, after.y - before.y];
    if (fingers.size > 1) {
      orbit.move(x, y);
      if (before.apart > 0 && after.apart > 0) orbit.approach(before.apart / after.apart);
    } else if (event.buttons & 2 || event.buttons & 4 || event.shiftKey) orbit.move(x, y);
    else orbit.turn(x / 200, y / 200);
    changed();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    orbit.approach(Math.exp(Math.max(-0.3, Math.min(0.3, event.deltaY * (event.deltaMode ? 0.03 : 0.001)))));
    changed();
  }, { passive: false });

  const help = document.getElementById("help"), button = (id) => document.getElementById(id);
  const toggleHelp = () => button("keys").setAttribute("aria-expanded", String(!(help.hidden = !help.hidden)));
  const arrow = (x, y) => (event) => (event.shiftKey ? orbit.move(-40 * x, -40 * y) : orbit.turn(0.1 * x, 0.1 * y));
  const keys = {
    ArrowLeft: arrow(-1, 0), ArrowRight: arrow(1, 0), ArrowUp: arrow(0, -1), ArrowDown: arrow(0, 1),
    "+": () => orbit.approach(0.9), "=": () => orbit.approach(0.9), "-": () => orbit.approach(1 / 0.9),
    n: () => orbit.show(orbit.index + 1), p: () => orbit.show(orbit.index - 1), r: () => orbit.show(0), h: toggleHelp,
  };
  addEventListener("keydown", (event) => {
    const action = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
    changed();
  });
  for (const [id, key] of [["next", "n"], ["previous", "p"], ["reset", "r"], ["keys", "h"]])
    button(id).addEventListener("click", (event) => (keys[key](event), changed()));
  button("next").hidden = button("previous").hidden = settings.cameras.length < 2;
}

// ---- all together ----

async function main() {
  const message = document.getElementById("message");
  try {
    document.body.classList.toggle("bare", location.hash === "#bare"); // the picture alone
    const model = await readModel();
    const renderer = new Renderer(model), orbit = new Orbit();
    const worker = new Worker(URL.createObjectURL(new Blob([`(${sorter})()`], { type: "text/javascript" })));
    worker.postMessage({ means: model.means, near: settings.near });
    let asked = 0, answered = 0, changes = 0, sortedAt = -1, frame = 0;

    const sort = () => {
      if (asked !== answered || sortedAt === changes) return; // one at a time, and not twice the same
      sortedAt = changes;
      const forward = orbit.rotation[2];
      worker.postMessage({ plane: [...forward, -dot(forward, orbit.center)], number: ++asked });
    };
    const draw = () => {
      frame = 0;
      renderer.resize(Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio)));
      renderer.draw(orbit);
      // What others wait for who photograph the page: the picture is that of the order it needs.
      document.documentElement.dataset.state = sortedAt === changes && asked === answered ? "drawn" : "drawing";
    };
    const redraw = () => (frame = frame || requestAnimationFrame(draw));
    const changed = () => (changes++, sort(), redraw());
    worker.onmessage = ({ data }) => {
      answered = data.number;
      renderer.setOrder(data.sorted);
      sort();
      redraw();
    };
    worker.onerror = (event) => (message.textContent = event.message, message.hidden = false);
    listen(orbit, changed);
    new ResizeObserver(redraw).observe(canvas);
    message.hidden = true;
    changed();
  } catch (error) {
    message.hidden = false;
    message.textContent = `The model cannot be shown: ${error.message}`;
    document.documentElement.dataset.state = "failed";
  }
}

main();
