//! Lists of lists without a vector per list.

/// `N` lists of differing length in one buffer: list `i` is `values[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ragged<T> {
    offsets: Vec<usize>,
    values: Vec<T>,
}

impl<T> Default for Ragged<T> {
    fn default() -> Self {
        Self { offsets: vec![0], values: Vec::new() }
    }
}

impl<T> Ragged<T> {
    /// No lists yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no list at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All lists end to end.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// List `i`.
    ///
    /// # Panics
    /// If `i >= len()`, like a slice.
    pub fn get(&self, i: usize) -> &[T] {
        &self.values[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Appends one list.
    pub fn push(&mut self, list: impl IntoIterator<Item = T>) {
        self.values.extend(list);
        self.offsets.push(self.values.len());
    }

    /// The lists in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.offsets.windows(2).map(|w| &self.values[w[0]..w[1]])
    }

    /// Keeps the first `n` lists.
    pub fn truncate(&mut self, n: usize) {
        if n < self.len() {
            self.offsets.truncate(n + 1);
            self.values.truncate(self.offsets[n]);
        }
    }
}

impl<T, L: IntoIterator<Item = T>> FromIterator<L> for Ragged<T> {
    fn from_iter<I: IntoIterator<Item = L>>(lists: I) -> Self {
        let mut ragged = Self::new();
        lists.into_iter().for_each(|list| ragged.push(list));
        ragged
    }
}
