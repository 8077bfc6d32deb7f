// Stars, which the browser stores under the work folder's name. A frame without storage loses them when it closes.

const STARS_KEY = "its_jax gallery " + DATA.workdir;
let starsAreKept = true;
const stars = new Set(readStars());

function readStars() {
  try {
    return JSON.parse(localStorage.getItem(STARS_KEY) ?? "[]");
  } catch {
    starsAreKept = false;
    return [];
  }
}

function isStarred(i) {
  return stars.has(DATA.ids[i]);
}

function toggleStar(i) {
  if (!stars.delete(DATA.ids[i])) stars.add(DATA.ids[i]);
  try {
    localStorage.setItem(STARS_KEY, JSON.stringify([...stars]));
  } catch {
    starsAreKept = false;
  }
}

const starredHere = () => DATA.ids.map((_, i) => i).filter(isStarred);
