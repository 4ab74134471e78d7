//! The search tree of one game.

use scai_games::Game;

use crate::network::Evaluation;

/// How a search weighs what it knows against what it has not tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exploration {
    /// The weight of the prior against the value.
    pub c_puct: f32,
}

/// Until it has been tried, an action is valued less than its parent by this much.
const FIRST_PLAY_REDUCTION: f32 = 0.25;

/// No node: the root has no parent.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    /// Children are stored one after the other.
    first_child: u32,
    children: u16,
    action: u16,
    visits: u32,
    prior: f32,
    /// The sum of all results, for the player who chose this node.
    total: f32,
}

/// A Monte Carlo search tree, whose nodes are chosen by PUCT.
///
/// Source: Silver et al., *A general reinforcement learning algorithm that masters chess, shogi,
/// and Go through self-play*, 2018.
#[derive(Debug, Clone)]
pub struct Tree<G> {
    root: G,
    nodes: Vec<Node>,
}

/// A node of the tree that waits for its evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf(u32);

/// What a descent through the tree found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<G> {
    /// A position that must be evaluated.
    Leaf(Leaf, G),
    /// The end of a game, which was counted.
    End,
}

impl<G: Game> Tree<G> {
    /// A tree of the position alone.
    pub fn new(root: G) -> Self {
        Self { root, nodes: vec![Node::new(NONE, 0, 0.0)] }
    }

    /// The position at the root.
    pub fn root(&self) -> &G {
        &self.root
    }

    /// Whether the root has been evaluated.
    pub fn is_expanded(&self) -> bool {
        self.nodes[0].children > 0
    }

    /// Descends to a position that has not been evaluated, by the values and priors known.
    pub fn descend(&mut self, exploration: Exploration) -> Found<G> {
        let (mut at, mut position) = (0, self.root);
        while self.nodes[at].children > 0 {
            at = self.best_child(at, exploration);
            position.play(usize::from(self.nodes[at].action));
        }
        match position.outcome() {
            // The node's value is that of the player who moved there.
            Some(outcome) => {
                self.count(at, -outcome.value());
                Found::End
            }
            None => Found::Leaf(Leaf(at as u32), position),
        }
    }

    /// Adds the evaluation of a leaf, which is at `position`.
    pub fn expand(&mut self, Leaf(leaf): Leaf, position: &G, evaluation: &Evaluation) {
        let first_child = self.nodes.len() as u32;
        let sum: f32 = position.legal_actions().map(|action| evaluation.policy[action]).sum();
        let legal = position.legal_actions().count();
        for action in position.legal_actions() {
            let prior =
                if sum > 0.0 { evaluation.policy[action] / sum } else { 1.0 / legal as f32 };
            self.nodes.push(Node::new(leaf, action as u16, prior));
        }
        let node = &mut self.nodes[leaf as usize];
        node.first_child = first_child;
        node.children = legal as u16;
        self.count(leaf as usize, -evaluation.value);
    }

    /// Mixes noise into the priors of the root: `(1 − fraction) · prior + fraction · noise`.
    ///
    /// `noise` has a share for each legal action, in order.
    pub fn add_noise(&mut self, noise: &[f32], fraction: f32) {
        let children = self.children(0);
        for (node, noise) in self.nodes[children].iter_mut().zip(noise) {
            node.prior = (1.0 - fraction) * node.prior + fraction * noise;
        }
    }

    /// How often each action was chosen at the root.
    pub fn visits(&self) -> Vec<u32> {
        let mut visits = vec![0; G::ACTIONS];
        for node in &self.nodes[self.children(0)] {
            visits[usize::from(node.action)] = node.visits;
        }
        visits
    }

    /// How the search expects the game to end for the player to move at the root, from −1 to 1.
    pub fn value(&self) -> f32 {
        -self.nodes[0].mean().unwrap_or(0.0)
    }

    /// Plays an action at the root and keeps what is known about the position after it.
    #[must_use]
    pub fn after(&self, action: usize) -> Self {
        let mut root = self.root;
        root.play(action);
        let mut tree = Self::new(root);
        let chosen =
            self.children(0).find(|&child| usize::from(self.nodes[child].action) == action);
        let Some(chosen) = chosen else { return tree };
        tree.nodes[0] = Node { parent: NONE, ..self.nodes[chosen] };
        // Breadth first, so that the children of a node remain together.
        let mut at = 0;
        while at < tree.nodes.len() {
            let node = tree.nodes[at];
            if node.children > 0 {
                tree.nodes[at].first_child = tree.nodes.len() as u32;
                let old = node.first_child as usize
                    ..node.first_child as usize + usize::from(node.children);
                tree.nodes.extend(
                    self.nodes[old].iter().map(|child| Node { parent: at as u32, ..*child }),
                );
            }
            at += 1;
        }
        tree
    }

    fn children(&self, at: usize) -> std::ops::Range<usize> {
        let node = &self.nodes[at];
        let first = node.first_child as usize;
        first..first + usize::from(node.children)
    }

    fn best_child(&self, at: usize, exploration: Exploration) -> usize {
        let parent = &self.nodes[at];
        let untried = -parent.mean().unwrap_or(0.0) - FIRST_PLAY_REDUCTION;
        let weight = exploration.c_puct * (parent.visits.max(1) as f32).sqrt();
        let score = |node: &Node| {
            node.mean().unwrap_or(untried) + weight * node.prior / (1.0 + node.visits as f32)
        };
        let children = self.children(at);
        let mut best = (f32::NEG_INFINITY, children.start);
        for child in children {
            let score = score(&self.nodes[child]);
            if score > best.0 {
                best = (score, child);
            }
        }
        best.1
    }

    /// Counts a result at a node and all above it.
    fn count(&mut self, at: usize, mut value: f32) {
        let mut at = at as u32;
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            node.visits += 1;
            node.total += value;
            value = -value;
            at = node.parent;
        }
    }
}

impl Node {
    fn new(parent: u32, action: u16, prior: f32) -> Self {
        Self { parent, first_child: 0, children: 0, action, visits: 0, prior, total: 0.0 }
    }

    fn mean(&self) -> Option<f32> {
        (self.visits > 0).then(|| self.total / self.visits as f32)
    }
}
